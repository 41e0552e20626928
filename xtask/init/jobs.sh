# The last part of an /init that runs jobs, one after another.
echo "@@ ready $(up)"
for name in $(cat /jobs/order); do
  . /jobs/$name/limit
  cd /jobs/$name/files
  echo "@@ begin $name $(up)"
  timeout -k 5 $LIMIT sh /jobs/$name/script </dev/null 2>&1
  echo "@@ end $name $? $(up)"
done
echo "@@ done $(up)"
poweroff -f

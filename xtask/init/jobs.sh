# The last part of an /init that runs jobs, one after another.
echo "@@ ready $(up)"
for name in $(cat /jobs/order); do
  . /jobs/$name/limit
  mkdir /tmp/$name
  cd /tmp/$name
  . /jobs/$name/copy
  echo "@@ begin $name $(up)"
  timeout -k 5 $LIMIT sh /jobs/$name/script </dev/null 2>&1
  echo "@@ end $name $? $(up)"
  cd /
  rm -rf /tmp/$name
done
echo "@@ done $(up)"
poweroff -f

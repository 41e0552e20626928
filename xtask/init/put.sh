#!/bin/sh
# Takes in what is sent and answers with its SHA-256.
echo "Content-Type: text/plain"
echo
head -c "$CONTENT_LENGTH" | tee /tmp/put | sha256sum

#!/bin/sh
# Ends the server.
touch /tmp/quit
echo "Content-Type: text/plain"
echo

# A database that asks for a password. Its account has to have a name.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -d /tmp/data ]; then
  printf '%s' "$PASSWORD" >/tmp/password
  "$bin/initdb" -D /tmp/data -U canfar --auth=scram-sha-256 --pwfile=/tmp/password -E UTF8 --no-locale --no-sync
  echo "host all all all scram-sha-256" >>/tmp/data/pg_hba.conf
fi
exec "$bin/postgres" -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off

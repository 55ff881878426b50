#!/bin/sh
# Makes the secrets that compose.yml mounts, once: random passwords, each file for its reader alone.
#   sudo sh deploy/secrets.sh [DIRECTORY]
set -eu
directory=${1:-$(dirname "$0")/secrets}
umask 077
mkdir "$directory" # fails if there are secrets already: new passwords would not fit the stores
cd "$directory"

password() { od -An -tx1 -N24 /dev/urandom | tr -d ' \n'; }

for role in superuser owner router; do password > "postgres-$role"; done
redis=$(password)

router="database_url = \"postgresql://blindpost:$(cat postgres-router)@/blindpost?host=/run/postgresql\"
redis_url = \"unix://blindpost:$redis@/run/redis/redis.sock\""
echo "$router" > router.toml
echo "$router
migration_database_url = \"postgresql://blindpost_owner:$(cat postgres-owner)@/blindpost?host=/run/postgresql\"" \
    > migrate.toml

# Redis keeps digests of passwords.
digest=$(printf %s "$redis" | sha256sum | cut -d ' ' -f 1)
keys="resetkeys ~challenge:* ~session:* ~proof:* ~ticket:* ~blindpost:* ~LIMITS:* resetchannels"
commands="-@all +ping +info +time +select +get +set +getdel +exists +pttl +incrby +rename +eval +evalsha +script|load"
printf '%s\n' "user default off" "user blindpost on #$digest $keys $commands" > redis-users.acl

# The accounts inside of the images; secrets are mounted as they are here.
if [ "$(id -u)" = 0 ]; then
    chown 10001:10001 router.toml migrate.toml
    chown 999:999 postgres-superuser postgres-owner postgres-router redis-users.acl
else
    echo "secrets.sh: run it as root, or give each file to the account that reads it (see its last lines)" >&2
fi

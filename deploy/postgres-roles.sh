#!/bin/sh
# Two roles and the database, when the cluster is made: one role owns and migrates, the router's own owns nothing.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<END
\\set owner \`cat "${SECRETS:-/run/secrets}/postgres-owner"\`
\\set router \`cat "${SECRETS:-/run/secrets}/postgres-router"\`
CREATE ROLE blindpost_owner LOGIN PASSWORD :'owner';
CREATE ROLE blindpost LOGIN PASSWORD :'router';
CREATE DATABASE blindpost OWNER blindpost_owner;
REVOKE CONNECT ON DATABASE blindpost FROM PUBLIC;
GRANT CONNECT ON DATABASE blindpost TO blindpost;
END

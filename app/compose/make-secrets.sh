#!/bin/sh
# Turns .env into the secret files the containers read (.secrets/, next to compose.yaml). Run it again after a change.
# Files, because secrets in a container's environment show in `docker inspect`, and because Compose cannot put secrets
# from its own environment into containers with a read-only root file system. The directory is closed to other users;
# the files are readable in it because Compose mounts them as they are for the containers' users 10001 and 10002.
set -eu
umask 022
cd "$(dirname "$0")/.."

[ -f .env ] || { echo "make-secrets: there is no .env: cp .env.example .env, then fill it in" >&2; exit 2; }

# The value of one line NAME=value of .env; refuses placeholders and short values.
value() {
  found=$(sed -n "s/^$1=//p" .env | tail -n 1)
  case $found in
    '' | *'<'* | *'>'* | [Cc]hange* | [Ss]ecret* | [Pp]assword* | [Ee]xample*)
      echo "make-secrets: $1 in .env is missing or a placeholder: openssl rand -hex 32" >&2; exit 2 ;;
  esac
  if [ "${#found}" -lt 32 ]; then
    echo "make-secrets: $1 in .env has fewer than 32 characters: openssl rand -hex 32" >&2; exit 2
  fi
  printf '%s' "$found"
}

digest() { printf '%s' "$1" | sha256sum | cut -d' ' -f1; }

secret_key=$(value SECRET_KEY)
redis_password=$(value REDIS_PASSWORD)
read_token=$(value READ_TOKEN)
write_token=$(value WRITE_TOKEN)
admin_token=$(value ADMIN_TOKEN)

mkdir -p .secrets
chmod 0700 .secrets
rm -f .secrets/secret_key .secrets/redis_password .secrets/api_tokens
printf '%s\n' "$secret_key" > .secrets/secret_key
printf '%s\n' "$redis_password" > .secrets/redis_password
cat > .secrets/api_tokens <<TOKENS
[
  {"name": "reader", "role": "read", "sha256": "$(digest "$read_token")"},
  {"name": "writer", "role": "write", "sha256": "$(digest "$write_token")"},
  {"name": "admin", "role": "admin", "sha256": "$(digest "$admin_token")", "rate_limit": "unlimited"}
]
TOKENS
chmod 0444 .secrets/secret_key .secrets/redis_password .secrets/api_tokens
echo "make-secrets: wrote .secrets/secret_key, .secrets/redis_password, .secrets/api_tokens"

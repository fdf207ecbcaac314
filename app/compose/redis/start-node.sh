#!/bin/bash
# Entry point of a node in compose.yaml: writes the ACL from the secret file into a tmpfs, then starts the node as the
# image would. The rules are those of README.md; Redis is given the hash of the password only.
set -euo pipefail
password=$(</run/secrets/redis_password)
digest=$(printf '%s' "$password" | sha256sum | cut -d' ' -f1)
umask 077
cat > /run/holdfast/users.acl <<ACL
user default off resetpass ~* &* +@all
user service on #$digest resetkeys resetchannels -@all ~cp:* ~ap:* ~holdfast:guard ~holdfast:outbox ~holdfast:ap ~holdfast:peers ~holdfast:parked ~holdfast:digest ~holdfast:lease ~holdfast:collector ~holdfast:cp ~holdfast:heartbeat ~holdfast:limit:* ~holdfast:session:* +evalsha +script|load +hget +hmget +hset +hgetall +hlen +hdel +hscan +pexpire +pttl +exists +get +set +scan +xadd +xrange +xlen +xtrim +time +info +dbsize +memory|usage
ACL
exec redis-node

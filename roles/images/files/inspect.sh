#!/bin/sh
# Runs inside an image, as root. Prints, separated by tabs, what the image holds and what should not stay so:
#   deb      name version architecture       a Debian package
#   python   name version                    a Python package under /opt
#   pending  name version candidate          Debian has a security update for it
#   below    name version fixed              it lies below one of the fixed versions given as name=version arguments
# Exit 3: the image has no source of security updates, so nothing can be said about them.
# Everything reads /dev/null, for the script itself comes in by standard input.
set -eu

dpkg-query --show --showformat='deb\t${Package}\t${Version}\t${Architecture}\n' < /dev/null

for python in /opt/*/bin/python3; do
    [ -x "$python" ] || continue
    "$python" -c '
from importlib.metadata import distributions
for name, version in sorted({(d.metadata["Name"], d.version) for d in distributions()}):
    print("python", name, version, sep="\t")
' < /dev/null
done

apt-get --quiet=2 --option APT::Update::Error-Mode=any update < /dev/null >&2
if ! apt-cache policy < /dev/null | grep --quiet '[a-z]-security/'; then
    echo "the image has no source of Debian's security updates in /etc/apt" >&2
    exit 3
fi
# Not only what apt would install from there: a point release may hold the same fix under a higher version.
apt-cache policy $(dpkg-query --show --showformat='${binary:Package} ' < /dev/null) < /dev/null |
    awk '/^[^ ]/ { name = $1; sub(/:$/, "", name) }
         /^  Installed: / { installed = $2 }
         /^ (\*\*\*|   ) [^ ]/ { version = $1 == "***" ? $2 : $1 }
         / [a-z]+-security\// { print name "\t" installed "\t" version }' |
    while IFS='	' read -r name installed version; do
        if dpkg --compare-versions "$installed" lt "$version"; then
            printf 'pending\t%s\t%s\t%s\n' "$name" "$installed" "$version"
        fi
    done

for wanted in "$@"; do
    name=${wanted%%=*} fixed=${wanted#*=}
    installed=$(dpkg-query --show --showformat='${Version}' "$name" 2> /dev/null < /dev/null) || continue
    if dpkg --compare-versions "$installed" lt "$fixed"; then
        printf 'below\t%s\t%s\t%s\n' "$name" "$installed" "$fixed"
    fi
done

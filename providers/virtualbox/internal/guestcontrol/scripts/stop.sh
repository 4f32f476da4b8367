# Comes before kill.sh, which is given what exec.sh has written down: stop.sh DIR.
trap 'rm -rf "$1" "$1.in"' EXIT
set -- "$1" "$(cat "$1/run" 2>/dev/null)"

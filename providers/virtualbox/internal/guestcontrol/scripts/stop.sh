# Comes before kill.sh, which is given what exec.sh has written down: stop.sh DIR.
r=$1
trap 'rm -rf "$r" "$r.in"' EXIT
set -- "$r" "$(cat "$r/run" 2>/dev/null)"

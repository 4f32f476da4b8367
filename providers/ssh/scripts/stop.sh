# Comes before kill.sh, which is given what exec.sh has written down: stop.sh DIR.
# A command that has not begun yet finds its directory taken, and never does.
r=$1
if mkdir "$r" 2>/dev/null; then
	echo gone
	exit 0
fi
trap 'rm -rf "$r"' EXIT
set -- "$r" "$(cat "$r/run" 2>/dev/null)"

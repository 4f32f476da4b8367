# Comes before kill.sh, which is given what exec.sh has written down: stop.sh DIR BEGUN.
# A command that has not begun yet finds its directory taken, and never does; one that
# has, for which BEGUN is not empty, is over when its directory is gone.
r=$1
if [ -n "$2" ]; then
	[ -d "$r" ] || { echo gone; exit 0; }
elif mkdir "$r" 2>/dev/null; then
	echo gone
	exit 0
fi
trap 'rm -rf "$r"' EXIT
set -- "$r" "$(cat "$r/run" 2>/dev/null)"

# Comes before the line that becomes the command: DIR COMMAND [ARG...], with the
# command's PATH in $path. Refuses what cannot be started.
[ -z "$1" ] || cd -- "$1" 2>/dev/null || refuse directory
shift
why=
case $1 in
*/*)
	if [ ! -e "$1" ]; then
		why=missing
	elif [ ! -f "$1" ] || [ ! -x "$1" ]; then
		why=denied
	fi
	;;
*)
	why=missing
	set -f
	IFS=:
	for dir in $path; do
		[ -f "${dir:-.}/$1" ] || continue
		why=denied
		[ ! -x "${dir:-.}/$1" ] || { why=; break; }
	done
	unset IFS
	;;
esac
[ -z "$why" ] || refuse "$why"

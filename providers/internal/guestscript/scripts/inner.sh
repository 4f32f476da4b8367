[ -z "$1" ] || echo "$$" >"$1"
w=$2 n=$3
shift 3
while [ "$n" -gt 0 ]; do
	export "$1"
	shift
	n=$((n - 1))
done
if [ -n "$w" ] && ! cd -- "$w" 2>/dev/null; then
	echo directory >&4
	exit 126
fi
case $1 in
*/*)
	if [ ! -e "$1" ]; then
		echo missing >&4
		exit 127
	elif [ ! -f "$1" ] || [ ! -x "$1" ]; then
		echo denied >&4
		exit 126
	fi
	;;
*)
	set -f
	IFS=:
	f=missing
	for p in $PATH; do
		if [ -f "${p:-.}/$1" ]; then
			f=denied
			if [ -x "${p:-.}/$1" ]; then
				f=
				break
			fi
		fi
	done
	unset IFS
	if [ -n "$f" ]; then
		echo "$f" >&4
		exit 127
	fi
	;;
esac
exec "$@" 4>&-

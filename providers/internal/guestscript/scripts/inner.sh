[ -z "$1" ] || echo "$$" >"$1"
w=$2 n=$3
shift 3
# Variables are set by env: a shell has some of its own that it does not let anybody set.
i=0 path=$PATH
for c; do
	if [ "$i" -ge "$n" ]; then
		break
	fi
	case $c in
	PATH=*) path=${c#PATH=} ;;
	esac
	i=$((i + 1))
done
if [ -n "$w" ] && ! cd -- "$w" 2>/dev/null; then
	echo directory >&4
	exit 126
fi
case $c in
*/*)
	if [ ! -e "$c" ]; then
		echo missing >&4
		exit 127
	elif [ ! -f "$c" ] || [ ! -x "$c" ]; then
		echo denied >&4
		exit 126
	fi
	;;
*)
	set -f
	IFS=:
	f=missing
	for p in $path; do
		if [ -f "${p:-.}/$c" ]; then
			f=denied
			if [ -x "${p:-.}/$c" ]; then
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
if [ "$n" = 0 ]; then
	exec "$@" 4>&-
fi
case $c in
*=*) # env would take it for a variable
	i=$#
	while [ "$i" -gt 0 ]; do
		if [ "$n" = 0 ]; then
			set -- "$@" /bin/sh -c 'exec "$@"' sh
		fi
		set -- "$@" "$1"
		shift
		n=$((n - 1)) i=$((i - 1))
	done
	;;
esac
exec env "$@" 4>&-

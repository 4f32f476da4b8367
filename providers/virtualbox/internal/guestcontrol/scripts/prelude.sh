# Comes before every script: undoes what got it here, and how its arguments are
# written (see encode).
unset IFS
set +f
shift
n=$#
while [ "$n" -gt 0 ]; do
	a=$1
	shift
	case $a in
	'\c') a= ;;
	*\\*)
		a=$(printf '%b.' "$a")
		a=${a%.}
		;;
	esac
	set -- "$@" "$a"
	n=$((n - 1))
done

# Runs a script of ours and reports as exec.sh does:
#   shell.sh TOKEN STDIN DATA SCRIPT [ARG...]
# where STDIN is none, inline or the name of a file, which is removed.
t=$1 i=$2 x=$3 s=$4
shift 4
report() {
	printf '\001%s %s\n' "$t" "$1"
	printf '\001%s %s\n' "$t" "$1" >&2
}
report start
case $i in
none) sh -c "$s" sh "$@" </dev/null ;;
inline) printf '%s' "$x" | sh -c "$s" sh "$@" ;;
*)
	sh -c "$s" sh "$@" <"$i"
	rm -f "$i"
	;;
esac
report "done 0"

# Runs a script of ours, whose input is what follows, and reports as exec.sh does:
#   shell.sh TOKEN STDIN DATA SCRIPT [ARG...]
# STDIN is inline (DATA is its input) or stream.
t=$1 i=$2 x=$3 s=$4
shift 4
report() {
	printf '\001%s %s\n' "$t" "$1"
	printf '\001%s %s\n' "$t" "$1" >&2
}
report start
case $i in
inline) printf '%s' "$x" | sh -c "$s" sh "$@" ;;
*) sh -c "$s" sh "$@" ;;
esac
report "done 0"

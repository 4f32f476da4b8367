# Describes a file: get.sh PATH MAX. Prints "missing", "irregular", "denied" or
# "ok SIZE MODE"; the content follows if it has at most MAX bytes.
p=$1
[ -e "$p" ] || { echo missing; exit 0; }
[ -f "$p" ] || { echo irregular; exit 0; }
[ -r "$p" ] || { echo denied; exit 0; }
set -- "$2" $(stat -L -c '%s %a' "$p")
[ "$#" = 3 ] || { echo denied; exit 0; }
echo "ok $2 $3"
[ "$2" -gt "$1" ] || [ "$2" = 0 ] || head -c "$2" "$p"

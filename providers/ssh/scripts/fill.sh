# Writes our input to a new file beside the one that it will replace:
# fill.sh PATH TEMP PUT, where PUT is put.sh. Prints ok, or what is wrong.
r=$(sh -c "$3" sh begin "$1" "$2")
[ "$r" = ok ] || { echo "$r"; exit 0; }
if cat >"$2" 2>/dev/null; then echo ok; else rm -f "$2"; echo full; fi

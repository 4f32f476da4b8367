# Mounts a shared folder: mount.sh TYPE OPTIONS MODULES TAG PATH. Prints ok, or
# what is wrong.
t=$1 o=$2 m=$3 tag=$4 p=$5 now=
no() {
	[ "$(id -u)" = 0 ] && echo "$1" || echo root
	exit 0
}
while read -r source point type rest; do
	[ "$point" != "$p" ] || now="$source $type"
done </proc/mounts
[ "$now" != "$tag $t" ] || { echo ok; exit 0; }
for i in $m; do
	modprobe -q "$i" 2>/dev/null
done
mkdir -p "$p" 2>/dev/null || no directory
if e=$(mount -t "$t" -o "$o" "$tag" "$p" 2>&1); then
	echo ok
elif grep -qw "$t" /proc/filesystems; then
	no "failed $e"
else
	no unsupported
fi

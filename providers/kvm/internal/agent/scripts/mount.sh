# Mounts a shared folder: mount.sh TAG PATH ro|rw. Prints ok, or what is wrong.
t=$1 p=$2 o=$3 now=
while read -r source point type rest; do
	[ "$point" != "$p" ] || now="$source $type"
done </proc/mounts
[ "$now" != "$t 9p" ] || { echo ok; exit 0; }
modprobe -q 9pnet_virtio 2>/dev/null
modprobe -q 9p 2>/dev/null
mkdir -p "$p" 2>/dev/null || { echo directory; exit 0; }
if e=$(mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,nosuid,nodev,$o" "$t" "$p" 2>&1); then
	echo ok
elif grep -qw 9p /proc/filesystems; then
	echo "failed $e"
else
	echo unsupported
fi

# Mounts a shared folder: mount.sh NAME PATH ro|rw. Prints ok, or what is wrong.
t=$1 p=$2 o=$3 now=
while read -r source point type rest; do
	[ "$point" != "$p" ] || now="$source $type"
done </proc/mounts
[ "$now" != "$t vboxsf" ] || { echo ok; exit 0; }
modprobe -q vboxsf 2>/dev/null
mkdir -p "$p" 2>/dev/null || { echo directory; exit 0; }
if e=$(mount -t vboxsf -o "nosuid,nodev,$o" "$t" "$p" 2>&1); then
	echo ok
elif grep -qw vboxsf /proc/filesystems; then
	echo "failed $e"
else
	echo unsupported
fi

#!/usr/bin/env bash
# A real Ceph gateway on loopback, all in memory, for as long as a command runs:
#
#   tests/support/start_radosgw.sh COMMAND [ARGUMENT...]
#
# The command finds its address in BAAL_RAY_TEST_S3; both keys are `test`. Debian's packages are
# unpacked into CEPH (by default ~/.cache/baal_ray/ceph), not installed. Everything else is in a
# folder of its own in /tmp, which goes when the command ends, with the processes started here.
set -euo pipefail

CEPH=${CEPH:-$HOME/.cache/baal_ray/ceph}
HERE=$(mktemp -d /tmp/baal-ceph-XXXXXX)
STARTED=()

finish() {
  for pid in "${STARTED[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${STARTED[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$HERE" "$CEPH.part"
}
trap finish EXIT

unpack() {
  local packages
  packages=$(apt-get install --simulate --no-install-recommends radosgw ceph-mon ceph-osd |
    awk '/^Inst/ {print $2}')
  mkdir -p "$CEPH.part" "$HERE/packages"
  (cd "$HERE/packages" && apt-get download --quiet $packages)
  for package in "$HERE"/packages/*.deb; do dpkg --extract "$package" "$CEPH.part"; done
  mv "$CEPH.part" "$CEPH"
}

until_done() {
  for _ in $(seq 300); do
    if "$@" >"$HERE/tried" 2>&1; then return; fi
    sleep 0.2
  done
  echo "No success within a minute: $*" >&2
  tail -n 5 "$HERE"/tried "$HERE"/*.log >&2
  return 1
}

[ -d "$CEPH" ] || unpack
LIBRARIES=$(dirname "$CEPH"/usr/lib/*/rados-classes)
UNPACKED=(env "LD_LIBRARY_PATH=$LIBRARIES:$LIBRARIES/ceph:$CEPH/lib/$(basename "$LIBRARIES")"
  "PYTHONPATH=$CEPH/usr/lib/python3/dist-packages" "CEPH_CONF=$HERE/ceph.conf"
  "PATH=$CEPH/usr/bin:$PATH")
read -r MON_V2 MON_V1 GATEWAY < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(each.getsockname()[1] for each in held))')
MON="[v2:127.0.0.1:$MON_V2,v1:127.0.0.1:$MON_V1]"
CLUSTER=$(cat /proc/sys/kernel/random/uuid)
OSD=$(cat /proc/sys/kernel/random/uuid)

cat >"$HERE/ceph.conf" <<EOF
[global]
fsid = $CLUSTER
mon_host = $MON
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
ms_mon_service_mode = crc
ms_mon_cluster_mode = crc
run_dir = $HERE
admin_socket = $HERE/\$name.asok
log_file = $HERE/\$name.log
mon_data = $HERE/mon
mon_data_avail_crit = 1
mon_cluster_log_file = $HERE/cluster.log
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
osd_data = $HERE/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_crush_chooseleaf_type = 0
osd_class_dir = $LIBRARIES/rados-classes
erasure_code_dir = $LIBRARIES/ceph/erasure-code
plugin_dir = $LIBRARIES/ceph
rgw_frontends = beast endpoint=127.0.0.1:$GATEWAY
EOF

mkdir "$HERE/osd"
"${UNPACKED[@]}" monmaptool --create --fsid "$CLUSTER" --addv a "$MON" "$HERE/monmap" >/dev/null
"${UNPACKED[@]}" ceph-mon --mkfs --id a --monmap "$HERE/monmap" >/dev/null
"${UNPACKED[@]}" ceph-mon --foreground --id a >"$HERE/mon.log" 2>&1 &
STARTED+=($!)
until_done "${UNPACKED[@]}" ceph --connect-timeout 5 osd new "$OSD"
"${UNPACKED[@]}" ceph-osd --mkfs --id 0 --osd-uuid "$OSD" >/dev/null 2>&1
"${UNPACKED[@]}" ceph-osd --foreground --id 0 >"$HERE/osd.log" 2>&1 &
STARTED+=($!)
"${UNPACKED[@]}" radosgw --foreground --name client.admin >"$HERE/gateway.log" 2>&1 &
STARTED+=($!)
"${UNPACKED[@]}" radosgw-admin user create --uid tests --display-name tests \
  --access-key test --secret-key test >/dev/null 2>&1
export BAAL_RAY_TEST_S3=http://127.0.0.1:$GATEWAY
until_done curl --silent --fail "$BAAL_RAY_TEST_S3"
echo "radosgw answers at $BAAL_RAY_TEST_S3 after $SECONDS s"
"$@"

#!/usr/bin/env bash
# Run a command on a Ray cluster of three hosts, each with a network address of its own.
#
#   tests/support/several_hosts.sh COMMAND...        as root
#
# A host is a network namespace on a bridge, with two CPUs and a /tmp/ray of its own; the command
# runs on the first. All of it is in a process namespace that ends with the command.
set -euo pipefail

if [ "${1:-}" != --inside ]; then
  exec unshare --net --mount --pid --fork --kill-child --mount-proc "$0" --inside "$@"
fi
shift

mount -t tmpfs tmpfs /run
ip link set lo up
ip link add bridge type bridge
ip link set bridge up
mkdir -p /tmp/ray

# on HOST COMMAND...: with its own network and its own /tmp/ray.
declare -A holder
on() { nsenter --mount --target "${holder[$1]}" ip netns exec "$1" "${@:2}"; }

start() { # HOST ADDRESS OPTIONS...
  ip netns add "$1"
  ip link add "$1" type veth peer name eth0 netns "$1"
  ip link set "$1" master bridge up
  ip -n "$1" address add "$2/24" dev eth0
  ip -n "$1" link set eth0 up
  ip -n "$1" link set lo up
  unshare --mount sh -c 'mount -t tmpfs tmpfs /tmp/ray && touch "/run/$0" && exec sleep infinity' "$1" &
  holder[$1]=$!
  until [ -e "/run/$1" ]; do sleep 0.1; done
  on "$1" ray start --node-ip-address "$2" --num-cpus 2 --include-log-monitor false \
    --disable-usage-stats "${@:3}" >&2
}

start first 10.77.0.1 --head --port 6379 --include-dashboard false
start second 10.77.0.2 --address 10.77.0.1:6379
start third 10.77.0.3 --address 10.77.0.1:6379
RAY_ADDRESS=10.77.0.1:6379 on first "$@"

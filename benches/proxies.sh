#!/usr/bin/env bash
# CPU time per request of wakegate (warm), nginx and HAProxy in front of the same instance, on
# loopback, in one run. Needs wrk, nginx, haproxy, curl and a release build. Each load is bounded.
#   benches/proxies.sh [seconds per proxy] [connections]
set -euo pipefail
seconds=${1:-5} connections=${2:-64}
cd "$(dirname "$0")/.."
wakegate=target/release/wakegate
dir=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT

"$wakegate" local --api-listen 127.0.0.1:14973 --state-dir "$dir/state" --no-auth --on-exit stop >"$dir/local.log" 2>&1 &
pids+=($!)
until curl -sf http://127.0.0.1:14973/health >/dev/null; do sleep 0.05; done
ip=$(curl -sf http://127.0.0.1:14973/instances -d '{"name":"bench","image":"wakegate/hello"}' |
  sed -n 's/.*"ip":"\([0-9.]*\)".*/\1/p')
until curl -sf "http://$ip:8080/" >/dev/null; do sleep 0.02; done

cat >"$dir/wakegate.toml" <<TOML
[log]
access = "off"
[admin]
address = "127.0.0.1:19900"
[[hypeman]]
url = "http://127.0.0.1:14973"
[[listener]]
address = "127.0.0.1:18081"
[[route]]
host = "127.0.0.1"
instance = "bench"
TOML
cat >"$dir/nginx.conf" <<NGINX
worker_processes 2;
pid $dir/nginx.pid;
error_log $dir/nginx.log;
events { worker_connections 4096; }
http {
  access_log off;
  upstream bench { server $ip:8080; keepalive 256; }
  server {
    listen 127.0.0.1:18082;
    keepalive_requests 1000000000;
    location / {
      proxy_pass http://bench;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host \$host;
      proxy_set_header X-Forwarded-For \$remote_addr;
    }
  }
}
NGINX
cat >"$dir/haproxy.cfg" <<HAPROXY
global
  nbthread 2
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
frontend front
  bind 127.0.0.1:18083
  default_backend back
backend back
  server bench $ip:8080
HAPROXY

"$wakegate" serve -c "$dir/wakegate.toml" >"$dir/serve.log" 2>&1 & pids+=($!); gate=$!
nginx -c "$dir/nginx.conf" -g 'daemon off;' 2>"$dir/nginx.err" & pids+=($!); nginx=$!
haproxy -f "$dir/haproxy.cfg" >"$dir/haproxy.log" 2>&1 & pids+=($!); haproxy=$!
for port in 18081 18082 18083; do until curl -sf "http://127.0.0.1:$port/" >/dev/null; do sleep 0.05; done; done

# Clock ticks of a process and its children, from /proc.
ticks() {
  local total=0 pid
  for pid in "$1" $(pgrep -P "$1"); do
    total=$((total + $(awk '{print $14 + $15}' "/proc/$pid/stat")))
  done
  echo "$total"
}
measure() {
  local name=$1 pid=$2 port=$3 before after requests
  before=$(ticks "$pid")
  requests=$(wrk -t1 -c"$connections" -d"${seconds}s" "http://127.0.0.1:$port/" | awk '/requests in/ {print $1}')
  after=$(ticks "$pid")
  awk -v n="$name" -v r="$requests" -v t="$((after - before))" -v hz="$(getconf CLK_TCK)" \
    'BEGIN { printf "%-9s %8d requests  %6.1f CPU us each\n", n, r, t / hz * 1e6 / r }'
}
for _ in 1 2 3; do
  measure wakegate "$gate" 18081
  measure nginx "$nginx" 18082
  measure haproxy "$haproxy" 18083
done

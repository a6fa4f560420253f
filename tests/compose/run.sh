#!/usr/bin/env bash
# Proves docker-compose.yml: builds the image, starts everything under a project name of its own on free ports, waits
# until all is healthy, asks queries through the published port, looks into every container, stops everything.
#   tests/compose/run.sh
#   COMPOSE_PROFILES= tests/compose/run.sh      without Grafana, where its image cannot be had
# Needs a Docker engine (DOCKER_HOST is respected), `docker compose` or docker-compose, and python3. Leaves no
# container, network or volume; the image semlink:local stays, since it is the cache of the next build.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."

project=semlink-test-$$
limit_s=${SEMLINK_TEST_LIMIT_S:-900}  # from `up` to all healthy
export SEMLINK_PORT=0 SEMLINK_PROMETHEUS_PORT=0 SEMLINK_GRAFANA_PORT=0  # 0: the engine chooses
work=$(mktemp -d)
events=

if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose)
else
  echo "neither \`docker compose\` nor docker-compose is installed" >&2
  exit 1
fi
dc() { "${compose[@]}" -p "$project" "$@"; }
mine=(--filter "label=com.docker.compose.project=$project")
containers() { docker ps -aq "${mine[@]}"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

finish() {
  status=$?
  trap - EXIT
  if ((status != 0)); then
    docker ps -a "${mine[@]}" --format '{{.Names}}: {{.Status}}' >&2 || true
    dc logs --no-color --tail 30 >&2 || true
  fi
  dc down --volumes --remove-orphans --timeout 30 >"$work/down.log" 2>&1 || { cat "$work/down.log" >&2; status=1; }
  [[ -z $events ]] || kill "$events" 2>/dev/null || true
  if [[ -n $(containers; docker network ls -q "${mine[@]}"; docker volume ls -q "${mine[@]}") ]]; then
    echo "FAILED: something of $project is left" >&2
    status=1
  fi
  rm -rf "$work"
  ((status != 0)) || echo "passed"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

echo "== ${compose[*]} $("${compose[@]}" version --short), engine $(docker version --format '{{.Server.Version}}')"
started=$SECONDS
dc build >"$work/build.log" 2>&1 || { tail -n 60 "$work/build.log" >&2; fail "the image does not build"; }
bytes=$(docker image inspect --format '{{.Size}}' semlink:local)
echo "== built in $((SECONDS - started)) s, image $((bytes / 1000000)) MB"

# every change of a container's health, with its time
docker events "${mine[@]}" --filter event=health_status \
  --format '{{.TimeNano}} {{index .Actor.Attributes "com.docker.compose.service"}} {{.Status}}' >"$work/health" &
events=$!
started=$SECONDS
started_ns=$(date +%s%N)
timeout "$limit_s" "${compose[@]}" -p "$project" up --detach --no-build >"$work/up.log" 2>&1 \
  || { cat "$work/up.log" >&2; fail "up did not end well within $limit_s s"; }
# `up` returns when the last container is started, not when it is healthy
while states=$(docker inspect --format '{{.State.Health.Status}}' $(containers)) && grep -qvx healthy <<<"$states"; do
  ((SECONDS - started < limit_s)) || fail "not everything is healthy after $limit_s s"
  sleep 1
done
sleep 1  # the last event may still be on its way
echo "== healthy after $((SECONDS - started)) s, in this order:"
declare -A place
order=()
while read -r at service what; do
  [[ $what == *": healthy" && -z ${place[$service]:-} ]] || continue
  order+=("$service")
  place[$service]=${#order[@]}
  echo "   $service  $(((at - started_ns) / 1000000000)) s"
done <"$work/health"
running=$(containers | wc -l)
((${#order[@]} == running && running >= 7)) || fail "$running containers run, ${#order[@]} became healthy"
for pair in redis:knowledge redis:receiver knowledge:channel receiver:channel channel:transmitter \
  transmitter:gateway gateway:prometheus ${place[grafana]:+prometheus:grafana}; do
  ((place[${pair%:*}] < place[${pair#*:}])) || fail "${pair#*:} was healthy before ${pair%:*}"
done

echo "== queries through the published port"
python3 "$here/ask.py" "http://$(dc port gateway 8000)" "http://$(dc port prometheus 9090)"

echo "== containers: user, capabilities, root file system, ports, memory"
for id in $(containers); do
  name=$(docker inspect --format '{{index .Config.Labels "com.docker.compose.service"}}' "$id")
  # what the kernel says of the first process, not what the configuration says
  facts=$(docker exec "$id" cat /proc/1/status /proc/1/mounts)
  uid=$(awk '$1 == "Uid:" {print $2}' <<<"$facts")
  [[ $uid != 0 ]] || fail "$name runs as root"
  for set in CapPrm CapEff CapBnd; do
    [[ $(awk -v set="$set:" '$1 == set {print $2}' <<<"$facts") =~ ^0+$ ]] || fail "$name has capabilities ($set)"
  done
  [[ $(awk '$1 == "NoNewPrivs:" {print $2}' <<<"$facts") == 1 ]] || fail "$name may gain privileges"
  [[ $(awk '$2 == "/" {print $4}' <<<"$facts" | tail -n 1) =~ ^ro(,|$) ]] || fail "$name can write to its root"
  # 18EB: port 6379; 0A: listening
  [[ $name != redis ]] || ! docker exec "$id" cat /proc/1/net/tcp /proc/1/net/tcp6 | grep -q ':18EB .* 0A ' \
    || fail "the store listens on a port"
  hosts=$(docker inspect --format '{{range .NetworkSettings.Ports}}{{range .}}{{.HostIp}} {{end}}{{end}}' "$id")
  for host in $hosts; do
    [[ $host == 127.0.0.1 ]] || fail "$name is published on $host"
  done
  [[ $(docker inspect --format '{{.RestartCount}}' "$id") == 0 ]] || fail "$name was restarted"
  echo "   $name: uid $uid, no capability, read-only${hosts:+, on 127.0.0.1 only}, $(docker stats --no-stream --format '{{.MemUsage}}' "$id" | cut -d/ -f1)"
done

#!/usr/bin/env bash
# mosquitto_pub and mosquitto_sub against a broker:
# smoke.sh <mqtt://host:port or mqtts://host:port> <3|4|5> <topic prefix> [CA file]. Says "ok".
set -euo pipefail

url=$1 prefix=$3 ca=${4:-}
case $2 in 3) version=mqttv31 ;; 4) version=mqttv311 ;; *) version=mqttv5 ;; esac
address=${url#*://}
common=(-h "${address%:*}" -p "${address##*:}" -V "$version")
[[ -z $ca ]] || common+=(--cafile "$ca")
id=${prefix//\//-}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT

publish() { mosquitto_pub "${common[@]}" -q "$2" -t "$prefix/$1" -m "$3" "${@:4}"; }

# Subscribe in the background: name, then options. What comes is written to $work/name.
subscribe() {
    local name=$1
    shift
    stdbuf -oL mosquitto_sub "${common[@]}" -d -W 20 -F 'got %p %q %r' "$@" >"$work/$name" 2>&1 &
    last=$!
    wait_for 1 "received SUBACK" "$name"
}

# Until so many lines with a text are in the files.
wait_for() {
    local deadline=$((SECONDS + 15)) files=("${@:3}")
    until [[ $(cat "${files[@]/#/$work/}" 2>/dev/null | grep -c "$2") -ge $1 ]]; do
        if ((SECONDS > deadline)); then
            echo "$2 did not come $1 times" >&2
            cat "${files[@]/#/$work/}" >&2
            exit 1
        fi
        sleep 0.02
    done
}

subscribe live -t "$prefix/data" -q 2
for qos in 0 1 2; do publish data $qos "$qos"; done
wait_for 3 "^got" live
[[ $(grep "^got" "$work/live") == $'got 0 0 0\ngot 1 1 0\ngot 2 2 0' ]]

publish kept 1 kept -r
subscribe late -t "$prefix/kept" -q 1
wait_for 1 "^got kept 1 1" late

stays=(-c -i "$id-away" -q 2 -t "$prefix/data")
[[ $version != mqttv5 ]] || stays+=(-x 60)
mosquitto_sub "${common[@]}" "${stays[@]}" -E
publish data 2 "while-away"
subscribe away "${stays[@]}"
wait_for 1 "^got while-away 2 0" away

if [[ $version == mqttv5 ]]; then
    subscribe one -t "\$share/group/$prefix/jobs" -q 1
    subscribe two -t "\$share/group/$prefix/jobs" -q 1
    seq 20 | mosquitto_pub "${common[@]}" -q 1 -t "$prefix/jobs" -l
    wait_for 20 "^got" one two
    [[ $(cat "$work"/{one,two} | grep "^got" | sort -u | wc -l) -eq 20 ]]
fi

subscribe watcher -t "$prefix/will" -q 1
subscribe dying -t "$prefix/nothing" --will-topic "$prefix/will" --will-payload gone --will-qos 1
kill -9 "$last"
wait_for 1 "^got gone 1 0" watcher
echo ok

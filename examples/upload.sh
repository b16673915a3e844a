#!/usr/bin/env bash
# Uploads one MCAP file with bash, curl and openssl: docs/PROTOCOL.md in forty lines.
#
#     examples/upload.sh URL ROBOT FILE START_NS END_NS [INVITATION]
#
# The robot's key is kept in $KEY (robot.pem) and made where there is none; INVITATION makes it known, once.
# $STREAM (telemetry), $SEQ (0) and $RECORDING (a new one) name the segment; $CA is a CA's certificate, for https.
set -euo pipefail
url=$1 robot=$2 file=$3 start_ns=$4 end_ns=$5 invitation=${6:-}
key=${KEY:-robot.pem} work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
public() { openssl pkey -in "$key" -pubout -outform DER | tail -c 32; }                    # the raw 32 bytes
sha256_field() { printf 'sha-256=:%s:' "$(openssl dgst -sha256 -binary "$1" | openssl base64 -A)"; }

token() { # method, target, digest: a JWT for this one request
    local now kid text
    now=$(date +%s) kid=$(public | openssl dgst -sha256 -r | head -c 16)
    text=$(printf '{"alg":"EdDSA","kid":"%s"}' "$kid" | base64url).$(printf \
        '{"sub":"%s","aud":"fleetfeed-ingest","iat":%d,"exp":%d,"htm":"%s","htu":"%s","dig":"%s"}' \
        "$robot" "$now" $((now + 120)) "$1" "$2" "$3" | base64url)
    printf %s "$text" >"$work/text"
    printf '%s.%s' "$text" "$(openssl pkeyutl -sign -inkey "$key" -rawin -in "$work/text" | base64url)"
}

post() { # target, type, file: the answer; a problem is told and ends the script
    local digest
    digest=$(sha256_field "$3")
    curl --silent --show-error --fail-with-body --max-time 300 ${CA:+--cacert "$CA"} --data-binary "@$3" \
        -H "Content-Type: $2" -H "Content-Digest: $digest" -H "Authorization: Bearer $(token POST "$1" "$digest")" \
        -H "Expect:" "$url$1"
}

[ -e "$key" ] || (umask 077 && openssl genpkey -algorithm ed25519 -out "$key")
if [ -n "$invitation" ]; then # the same again does no harm, say after a lost reply
    printf '{"token":"%s","public_key":"%s"}' "$invitation" "$(public | openssl base64 -A)" >"$work/enrolment"
    post "/v1/robots/$robot/enrol" application/json "$work/enrolment" >&2
fi

ulid() { # milliseconds since 1970 and 80 random bits, five bits a digit
    local digits=0123456789ABCDEFGHJKMNPQRSTVWXYZ ms text=
    ms=$(($(date +%s) * 1000))
    for _ in {1..10}; do text=${digits:ms % 32:1}$text ms=$((ms / 32)); done
    for _ in {1..16}; do text+=${digits:RANDOM % 32:1}; done
    echo "$text"
}

query="recording=${RECORDING:-$(ulid)}&stream=${STREAM:-telemetry}&seq=${SEQ:-0}&start_ns=$start_ns&end_ns=$end_ns"
receipt=$(post "/v1/robots/$robot/telemetry?$query" application/vnd.mcap "$file") || { echo "$receipt" >&2; exit 1; }
echo "$receipt"
case $receipt in
*"\"sha256\":\"$(openssl dgst -sha256 -r "$file" | head -c 64)\""*) ;; # only now may the file go
*) echo "the receipt is of other bytes" >&2 && exit 1 ;;
esac

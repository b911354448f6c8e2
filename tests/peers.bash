# The real clients and tools that the tests talk to. Sourced by tests/run and .ci/run; needs the working directory to
# be the repository.

# What was left out, and why: one line each.
skipped=()

# "COMMAND PACKAGE", or "/FILE PACKAGE" for what is no command: what provides it on Debian and Ubuntu.
peers=(
    "cc gcc"
    "c++ g++"
    "openssl openssl"
    "gnutls-cli gnutls-bin"
    "curl curl"
    "tstclnt libnss3-tools"
    "certutil libnss3-tools"
    "python3 python3"
    "ss iproute2"
    "ps procps"
    "unshare util-linux"
    "softhsm2-util softhsm2"
    "redis-server redis-server"
    "redis-cli redis-tools"
)

missing_peers() {
    local peer what
    for peer in "${peers[@]}"; do
        what=${peer% *}
        [[ $what == /* && -e $what ]] || command -v "$what" >/dev/null || echo "${peer#* }"
    done | sort -u
}

# Installs what is missing where that is allowed. Tests whose peer is missing say so themselves.
install_peers() {
    local missing
    mapfile -t missing < <(missing_peers)
    if ((${#missing[@]} == 0)); then
        return
    fi
    if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq && apt-get install -qq -y --no-install-recommends "${missing[@]}" libc6-dev ca-certificates ||
            echo "cannot install ${missing[*]}" >&2
    fi
    mapfile -t missing < <(missing_peers)
    if ((${#missing[@]} > 0)); then
        # Without it, a test whose client is missing fails.
        export KEYSTEAD_SKIP_MISSING_CLIENTS=1
        skipped+=("tests with ${missing[*]}: not installed, and only root can install with apt")
    fi
}

report_skipped() {
    if ((${#skipped[@]} > 0)); then
        echo "Skipped:"
        printf '  %s\n' "${skipped[@]}"
    fi
}

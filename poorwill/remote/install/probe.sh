# Looks around on a machine: is the engine there, and if not, what is there to install it with?
# sh -s -- NAME_WITH_GPU_PACKAGES NAME_WITHOUT PYTHON... What counts begins with the mark: a login may print anything.
mark='@poorwill@'
limit=
command -v timeout >/dev/null 2>&1 && limit='timeout 20'

# Both run on whatever Python there is: the syntax is that of any version.
ready='
import json, os, sys
folder = os.path.abspath(sys.argv[1])
with open(os.path.join(folder, "ready")) as file:
    marker = json.load(file)
if not marker["digest"].startswith(folder.rsplit("-", 1)[1]):
    sys.exit(1)
marker["python"] = os.path.join(folder, "venv", "bin", "python")
marker["home"] = os.path.dirname(os.path.dirname(folder))
print(sys.argv[2] + " ready " + json.dumps(marker))
'
about='
import json, os, platform, struct, sys, sysconfig
missing = []
for name in sys.argv[2:]:
    try:
        __import__(name)
    except Exception:
        missing.append(name)
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (ValueError, OSError):
    libc = None
print(sys.argv[1] + " python " + json.dumps({
    "path": sys.executable, "version": list(sys.version_info[:3]), "missing": missing, "libc": libc,
    "implementation": platform.python_implementation(), "bits": 8 * struct.calcsize("P"),
    "machine": platform.machine(), "gil": not sysconfig.get_config_var("Py_GIL_DISABLED"),
}))
'

engine() {
    folder=$HOME/.poorwill/engine/$1
    [ -f "$folder/ready" ] && $limit "$folder/venv/bin/python" -I -c "$ready" "$folder" "$mark" </dev/null 2>/dev/null
}

gpu() {
    command -v nvidia-smi >/dev/null 2>&1 && $limit nvidia-smi -L </dev/null 2>/dev/null | grep -q '^GPU '
}

if [ -n "$HOME" ]; then
    engine "$1" && exit 0
    if gpu; then
        echo "$mark gpu yes"
    else
        engine "$2" && exit 0
    fi
    place=$HOME/.poorwill
    [ -e "$place" ] || place=$HOME
    [ -d "$place" ] && [ -w "$place" ] && [ -x "$place" ] && echo "$mark home yes"
fi
for tool in apt-get dnf yum zypper pacman apk; do
    command -v $tool >/dev/null 2>&1 && { echo "$mark installer $tool"; break; }
done
shift 2
for python in "$@"; do
    command -v "$python" >/dev/null 2>&1 || continue
    $limit "$python" -I -c "$about" "$mark" ssl zlib ctypes mmap venv zipfile </dev/null 2>/dev/null
done
echo "$mark end yes"

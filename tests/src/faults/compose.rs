//! The fleet in containers: the same programs and the same load, from the host.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keystead_local::pki::Deployment;
use tempfile::TempDir;

use super::audited;
use super::campaign::{Fleet, Options, rows, say};
use super::client::CONNECT_TIMEOUT;
use super::configuration::{self, EDGE_PORT, EDGES, EdgeConfig, KEY_SERVER_PORT, METRICS_PORT};
use super::fault::Fault;
use super::ledger::Kill;
use super::load::Load;
use super::network::run;
use super::report::Report;
use crate::stack::{PATIENCE, get, programs};
use crate::tool;

/// The project's name, and what its containers begin with.
const PROJECT: &str = "keystead-faults";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/faults/docker-compose.yml");
/// The user in the containers.
const OWNER: &str = "65532:65532";
const KEY_SERVERS: [&str; 3] = ["ks1", "ks2", "ks3"];
const EDGE_SERVICES: [&str; 2] = ["edge1", "edge2"];

/// Containers that run, until this ends.
struct Containers {
    load: Load,
    kills: Vec<Kill>,
    directory: TempDir,
}

/// Injects the faults that Docker has.
///
/// # Errors
/// What keeps the fleet from starting.
pub fn part(options: &Options) -> Result<Report> {
    let mut report = Report::default();
    let mut faults = faults();
    faults.retain(|fault| options.wants(&fault.name));
    if faults.is_empty() {
        return Ok(report);
    }
    if let Err(cause) = run("docker info") {
        report.skipped.push(format!("containers: no Docker daemon answers ({})", first_line(&cause)));
        return Ok(report);
    }
    if composer().is_none() {
        report.skipped.push("containers: neither docker-compose nor the compose plugin is installed".to_owned());
        return Ok(report);
    }
    say("containers: up");
    let mut containers = Containers::start()?;
    containers.load.start(options.pace());
    report.rows = rows(&mut containers, faults);
    Ok(report)
}

fn first_line(cause: &anyhow::Error) -> String {
    cause.to_string().lines().next_back().unwrap_or_default().to_owned()
}

fn faults() -> Vec<Fault<Containers>> {
    let hold = Duration::from_secs(3);
    let fault = |name: &str, inject: fn(&mut Containers) -> Result<()>, repair: fn(&mut Containers) -> Result<()>| {
        Fault::new(format!("containers-{name}"), hold, inject).repaired_by(repair)
    };
    vec![
        fault("kill-key-server-1", |_| docker(&["kill", "ks1"]), |it| it.start_again("ks1")),
        fault("kill-edge-1", |it| it.kill_edge(0), |it| it.start_again("edge1")).taking_an_edge_away(),
        fault("pause-key-server-2", |_| docker(&["pause", "ks2"]), |_| docker(&["unpause", "ks2"])),
        fault("disconnect-key-server-3", |_| disconnect("ks3"), |it| it.connect("ks3")),
        fault("roll-key-servers", |it| it.roll(&KEY_SERVERS), |_| Ok(())),
        // A container that is restarted is gone for a moment, with its address.
        fault("roll-edges", |it| it.roll(&EDGE_SERVICES), |_| Ok(())).taking_an_edge_away(),
    ]
}

impl Containers {
    fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("keystead-faults-").tempdir()?;
        let root = directory.path();
        // Containers run as another user.
        fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Deployment::serving(["localhost"], EDGES).provide(&root.join("pki"))?;
        let secret = root.join("ticket-keys.toml");
        run(&format!("{} init --state {}", programs::path("keystead-keyserver").display(), secret.display()))?;
        for program in ["keystead-keyserver", "keystead-edge"] {
            build_image(root, program)?;
        }
        for service in KEY_SERVERS {
            let home = home(root, service, "keyserver")?;
            fs::copy(&secret, home.join("state/ticket-keys.toml"))?;
            audited::init(&home)?;
            fs::write(home.join("program.toml"), configuration::key_server(Ipv4Addr::UNSPECIFIED, None))?;
        }
        let mut containers = Self { load: Load::idle()?, kills: Vec::new(), directory };
        containers.start_edges()?;
        Ok(containers)
    }

    /// Makes the network, on which the backend is, and then everything on it.
    fn start_edges(&mut self) -> Result<()> {
        let root = self.directory.path().to_owned();
        for (service, name) in EDGE_SERVICES.iter().zip(EDGES) {
            home(&root, service, &format!("edge-{name}"))?;
        }
        give_away(&root)?;
        // Key servers first: with them comes the network, whose gateway is this host.
        self.compose(&["up", "--detach", "ks1", "ks2", "ks3"])?;
        let backend = self.load.backend(SocketAddr::from((address(1), 0)))?;
        for service in EDGE_SERVICES {
            let config = EdgeConfig {
                address: Ipv4Addr::UNSPECIFIED,
                metrics_port: METRICS_PORT,
                state_directory: "state",
                key_servers: KEY_SERVERS.iter().map(|name| format!("{name}:{KEY_SERVER_PORT}")).collect(),
                backend,
                has_added_host: false,
            };
            fs::write(root.join(service).join("program.toml"), config.text())?;
        }
        give_away(&root)?;
        self.compose(&["up", "--detach"])?;
        for service in KEY_SERVERS.iter().chain(&EDGE_SERVICES) {
            self.wait_ready(service)?;
        }
        let edges: Vec<_> = EDGE_SERVICES.iter().map(|edge| SocketAddr::from((place(edge), EDGE_PORT))).collect();
        self.load.meet(&edges, &root.join("pki/ca.pem"))
    }

    fn compose(&self, arguments: &[&str]) -> Result<()> {
        compose(self.directory.path(), arguments)
    }

    fn kill_edge(&mut self, index: usize) -> Result<()> {
        let service = EDGE_SERVICES.get(index).context("no such edge")?;
        self.kills.push(Kill::by(index, || docker(&["kill", service]))?);
        Ok(())
    }

    fn start_again(&mut self, service: &str) -> Result<()> {
        docker(&["start", service])?;
        self.wait_ready(service)
    }

    fn connect(&mut self, service: &str) -> Result<()> {
        let (address, container) = (place(service).to_string(), container(service));
        run(&format!("docker network connect --ip {address} --alias {service} {PROJECT} {container}"))?;
        self.wait_ready(service)
    }

    /// Stops each in good order and starts it again, one after another.
    fn roll(&mut self, services: &[&str]) -> Result<()> {
        services.iter().try_for_each(|service| {
            run(&format!("docker restart --time 30 {}", container(service)))?;
            self.wait_ready(service)?;
            // Who has waited for this one in vain tries the other, which must still be there.
            std::thread::sleep(CONNECT_TIMEOUT * 2);
            Ok(())
        })
    }

    fn wait_ready(&self, service: &str) -> Result<()> {
        let endpoint = metrics(service);
        let deadline = Instant::now() + PATIENCE;
        while !get(endpoint, "/readyz").is_ok_and(|(status, _)| status == 200) {
            ensure!(Instant::now() < deadline, "{service} is not ready in time");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Fleet for Containers {
    fn load(&mut self) -> &mut Load {
        &mut self.load
    }

    fn kills(&self) -> &[Kill] {
        &self.kills
    }

    fn edges(&self) -> Vec<(u64, String)> {
        // Counters that begin anew within a row are taken for what they say.
        let metrics = |(number, edge): (u64, &&str)| Some((number, get(metrics(edge), "/metrics").ok()?.1));
        (0..).zip(&EDGE_SERVICES).filter_map(metrics).collect()
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if let Err(cause) = self.compose(&["down", "--volumes", "--remove-orphans", "--timeout", "1"]) {
            say(&format!("containers: {cause}"));
        }
    }
}

/// The host number of a service's fixed address, as in the compose file.
fn place(service: &str) -> Ipv4Addr {
    let number = service.bytes().last().map_or(0, |digit| digit.saturating_sub(b'0'));
    address(if service.starts_with("ks") { 10 + number } else { 20 + number })
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, 249, last)
}

fn metrics(service: &str) -> SocketAddr {
    (place(service), METRICS_PORT).into()
}

fn container(service: &str) -> String {
    format!("{PROJECT}-{service}")
}

/// `docker ACTION SERVICE`.
fn docker(command: &[&str; 2]) -> Result<()> {
    let [action, service] = command;
    run(&format!("docker {action} {}", container(service)))
}

fn disconnect(service: &str) -> Result<()> {
    run(&format!("docker network disconnect {PROJECT} {}", container(service)))
}

/// A directory that becomes a container's `/etc/keystead`.
fn home(root: &Path, service: &str, part: &str) -> Result<std::path::PathBuf> {
    let home = root.join(service);
    fs::create_dir_all(home.join("state"))?;
    run(&format!("cp -r {} {}", root.join("pki").join(part).display(), home.join("pki").display()))?;
    Ok(home)
}

/// Gives the services' directories to the user in the containers.
fn give_away(root: &Path) -> Result<()> {
    KEY_SERVERS
        .iter()
        .chain(&EDGE_SERVICES)
        .try_for_each(|service| run(&format!("chown -R {OWNER} {}", root.join(service).display())))
}

/// An image with the program under test, the libraries it needs, and nothing else.
fn build_image(root: &Path, program: &str) -> Result<()> {
    let context = root.join(format!("image-{program}"));
    let path = programs::path(program);
    fs::create_dir_all(context.join("root"))?;
    fs::copy(&path, context.join("root").join(program))?;
    let listed = Command::new("ldd").arg(&path).output().context("ldd")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        // The loader looks for them where they are here.
        run(&format!("cp --dereference --parents {library} {}", context.join("root").display()))?;
    }
    let dockerfile = format!(
        "FROM scratch\nCOPY root /\nENTRYPOINT [\"/{program}\"]\nCMD [\"serve\", \"--config\", \"/etc/keystead/program.toml\"]\n"
    );
    fs::write(context.join("Dockerfile"), dockerfile)?;
    let tag = program.replace("keystead", PROJECT);
    run(&format!("docker build --quiet --tag {tag} {}", context.display()))
}

/// The words that docker-compose begins with here.
fn composer() -> Option<&'static [&'static str]> {
    if run("docker compose version").is_ok() {
        Some(&["docker", "compose"])
    } else {
        tool::find("docker-compose").then_some(&["docker-compose"])
    }
}

fn compose(directory: &Path, arguments: &[&str]) -> Result<()> {
    let (program, first) = composer().and_then(<[_]>::split_first).context("no docker-compose")?;
    let mut command = Command::new(program);
    command.args(first).args(["--project-name", PROJECT, "--file", FILE]).args(arguments);
    let output =
        command.env("KEYSTEAD_FAULTS_DIR", directory).stdin(Stdio::null()).output().context("docker-compose")?;
    ensure!(output.status.success(), "docker-compose: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

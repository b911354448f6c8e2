//! What terminates TLS: Keystead, and what a user would take in its place, all with the same certificate, suites, group and
//! backend, each on one processor.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use keystead_local::pki::Deployment;
use keystead_tests::tool;
use rustix::process::{Resource, getrlimit};
use strum::{Display, EnumIter, IntoEnumIterator};

use crate::ours::{self, Edge, KeyServer, TICKETS, free_address};
use crate::process::{MEASURED, OTHER, Program};

/// The suites that clients are measured with, and that everybody is told to serve.
const CIPHERS: &str = "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256";
const GROUP: &str = "X25519";
const EDGE: &str = "bench";

/// The kind of the certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display)]
pub enum KeyType {
    /// RSA with 2048 bits.
    #[strum(serialize = "rsa")]
    Rsa,
    /// ECDSA with P-256.
    #[strum(serialize = "p256")]
    P256,
}

impl KeyType {
    /// The names of both kinds, with the files of a key server that have their keys, without their extensions.
    pub(crate) fn files() -> Vec<(String, String)> {
        [Self::Rsa, Self::P256].map(|key_type| (key_type.to_string(), format!("localhost-{key_type}"))).to_vec()
    }

    /// The suite that clients offer for it, and that they choose it by.
    pub(crate) fn suite(self) -> &'static str {
        match self {
            Self::Rsa => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            Self::P256 => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        }
    }
}

/// Programs that terminate TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumIter)]
#[strum(serialize_all = "lowercase")]
pub enum Terminator {
    /// The edge, with a key server beside it.
    Keystead,
    /// nginx with its stream module.
    Nginx,
    /// HAProxy in its TCP mode.
    Haproxy,
    /// hitch.
    Hitch,
}

impl Terminator {
    /// Those that are installed, and the names of those that are not.
    pub fn present() -> (Vec<Self>, Vec<String>) {
        let (here, missing): (Vec<_>, Vec<_>) =
            Self::iter().partition(|it| *it == Self::Keystead || tool::find(&it.to_string()));
        (here, missing.iter().map(ToString::to_string).collect())
    }
}

/// Certificates and keys, for all of them.
pub struct Site {
    directory: PathBuf,
    /// Where what was decrypted goes.
    backend: SocketAddr,
}

/// A terminator that runs.
pub struct Running {
    /// Where clients go.
    pub address: SocketAddr,
    pub(crate) program: Program,
    /// Beside the edge.
    pub(crate) key_server: Option<Program>,
}

impl Site {
    /// Makes certificates in `directory`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(directory: &Path, backend: SocketAddr) -> Result<Self> {
        Deployment::serving(["localhost"], [EDGE]).provide(&directory.join("pki"))?;
        for key_type in [KeyType::Rsa, KeyType::P256] {
            let stem = directory.join(format!("pki/keyserver/localhost-{key_type}"));
            let mut combined = fs::read(stem.with_extension("pem"))?;
            combined.extend(fs::read(stem.with_extension("key"))?);
            fs::write(directory.join(format!("{key_type}.pem")), combined)?;
        }
        Ok(Self { directory: directory.to_owned(), backend })
    }

    /// The authority of the certificates.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("pki/ca.pem")
    }

    /// Starts a terminator with one certificate, and waits until it serves.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub fn start(&self, terminator: Terminator, key_type: KeyType) -> Result<Running> {
        let address = free_address()?;
        let mut key_server = None;
        let (command, ready) = match terminator {
            Terminator::Keystead => {
                let (program, at) = self.key_server()?;
                key_server = Some(program);
                self.edge(address, at, key_type)?
            }
            Terminator::Nginx => (self.nginx(address, key_type)?, address),
            Terminator::Haproxy => (self.haproxy(address, key_type)?, address),
            Terminator::Hitch => (self.hitch(address, key_type)?, address),
        };
        let mut program = Program::start(&terminator.to_string(), &command, MEASURED, &self.directory)?;
        program.wait_listening(ready)?;
        program.wait_listening(address)?;
        Ok(Running { address, program, key_server })
    }

    /// A key server that runs, and its address.
    fn key_server(&self) -> Result<(Program, SocketAddr)> {
        ours::provide_tickets(&self.directory)?;
        KeyServer { keys: KeyType::files(), edges: &[EDGE], tables: TICKETS }.start(OTHER, &self.directory)
    }

    fn edge(&self, address: SocketAddr, key_server: SocketAddr, key_type: KeyType) -> Result<(Command, SocketAddr)> {
        let (metrics, backend, keys) = (free_address()?, self.backend, vec![key_type.to_string()]);
        let edge = Edge { name: EDGE, address, metrics, key_server, keys, backend };
        Ok((edge.command(&self.directory)?, metrics))
    }

    fn nginx(&self, address: SocketAddr, key_type: KeyType) -> Result<Command> {
        let (directory, backend, most) = (self.directory.display(), self.backend, most_connections());
        let stem = format!("{directory}/pki/keyserver/localhost-{key_type}");
        let text = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
             worker_processes 1;\ndaemon off;\nuser root;\npid {directory}/nginx.pid;\nerror_log stderr error;\n\
             events {{ worker_connections {}; }}\n\
             stream {{ server {{\n\
               listen {address} ssl backlog=4096;\n\
               ssl_certificate {stem}.pem;\nssl_certificate_key {stem}.key;\n\
               ssl_protocols TLSv1.2;\nssl_ciphers {CIPHERS};\nssl_ecdh_curve {GROUP};\n\
               ssl_session_cache shared:sessions:32m;\nssl_session_tickets on;\n\
               tcp_nodelay on;\nproxy_pass {backend};\n\
             }} }}\n",
            // Those to the backend among them.
            2 * most + 16
        );
        let file = self.write("nginx.conf", &text)?;
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(file);
        Ok(command)
    }

    fn haproxy(&self, address: SocketAddr, key_type: KeyType) -> Result<Command> {
        let (directory, backend, most) = (self.directory.display(), self.backend, most_connections());
        let text = format!(
            "global\n nbthread 1\n maxconn {most}\n tune.ssl.cachesize 100000\n\
             defaults\n mode tcp\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n\
             frontend tls\n bind {address} ssl crt {directory}/{key_type}.pem ciphers {CIPHERS} curves {GROUP} \
             ssl-min-ver TLSv1.2 ssl-max-ver TLSv1.2 backlog 4096\n default_backend plain\n\
             backend plain\n server one {backend}\n"
        );
        let file = self.write("haproxy.cfg", &text)?;
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(file);
        Ok(command)
    }

    fn hitch(&self, address: SocketAddr, key_type: KeyType) -> Result<Command> {
        let (directory, backend) = (self.directory.display(), self.backend);
        let (at, port) = (address.ip(), address.port());
        let text = format!(
            "frontend = \"[{at}]:{port}\"\nbackend = \"[{}]:{}\"\npem-file = \"{directory}/{key_type}.pem\"\n\
             workers = 1\nbacklog = 4096\ndaemon = off\nquiet = on\nuser = \"root\"\n\
             tls-protos = TLSv1.2\nciphers = \"{CIPHERS}\"\necdh-curve = \"{GROUP}\"\n",
            backend.ip(),
            backend.port(),
        );
        let file = self.write("hitch.conf", &text)?;
        let mut command = Command::new("/usr/sbin/hitch");
        command.arg("--config").arg(file);
        Ok(command)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.directory.join(name);
        fs::write(&file, text).with_context(|| name.to_owned())?;
        Ok(file)
    }
}

/// Clients that everybody can have, at two descriptors each.
pub(crate) fn most_connections() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(200) / 2).unwrap_or(usize::MAX).min(30_000)
}

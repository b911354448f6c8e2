//! What the stack prints once everything runs.
use std::fmt;
use std::path::Path;

use super::invocation::quoted;
use super::layout::{Edge, KeyServer, Layout};
use super::store::Store;
use crate::pki::{LEGACY_NAME, MUTUAL_NAME};

/// What runs where, and commands to try it.
pub(super) struct Announcement<'s> {
    pub(super) layout: &'s Layout,
    /// The programs' names with the numbers of their processes.
    pub(super) processes: Vec<(&'s str, u32)>,
}

impl fmt::Display for Announcement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Keystead is ready; Ctrl-C ends it.")?;
        self.places(f)?;
        writeln!(f, "Try it:")?;
        let authority = self.file("ca.pem");
        for Edge { tls, .. } in &self.layout.edges {
            writeln!(f, "  curl --cacert {authority} https://localhost:{}/", tls.port())?;
        }
        self.client_authentication_and_key_transport(f)?;
        self.resumption(f)
    }
}

impl Announcement<'_> {
    fn places(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = self.layout;
        for Edge { name, tls, metrics, .. } in &layout.edges {
            writeln!(f, "  edge {name:<6} https://localhost:{}  metrics http://{metrics}/metrics", tls.port())?;
        }
        let KeyServer { grpc, metrics, .. } = &layout.key_server;
        writeln!(f, "  key server  {grpc} (gRPC)   metrics http://{metrics}/metrics")?;
        writeln!(f, "  backend     http://{}", layout.backend)?;
        match &layout.store {
            Store::Alone => {}
            Store::Given(address) => writeln!(f, "  store       {address}, where edges share sessions by id")?,
            Store::Own(server) => {
                let (address, name) = (server.address, server.name());
                writeln!(f, "  store       {address} ({name}), where edges share sessions by id")?;
            }
            Store::Missing => {
                writeln!(
                    f,
                    "  store       none: sessions resume by id only at their own edge (by ticket at every one)"
                )?;
                writeln!(f, "              install valkey-server or redis-server, or name one with --shared-store")?;
            }
        }
        writeln!(f, "  files       {} (certificates, configurations, logs)", layout.directory.display())?;
        let processes: Vec<_> = self.processes.iter().map(|(name, id)| format!("{name} {id}")).collect();
        writeln!(f, "  processes   {}", processes.join(", "))
    }

    fn client_authentication_and_key_transport(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Edge { tls, .. }) = self.layout.edges.first() else { return Ok(()) };
        let (authority, port) = (self.file("ca.pem"), tls.port());
        let (certificate, key) = (self.file("client.pem"), self.file("client.key"));
        writeln!(f, "With a client certificate, and by RSA key transport:")?;
        writeln!(f, "  curl --cacert {authority} --cert {certificate} --key {key} https://{MUTUAL_NAME}:{port}/")?;
        writeln!(
            f,
            "  curl --cacert {authority} --tls-max 1.2 --ciphers AES128-GCM-SHA256 https://{LEGACY_NAME}:{port}/"
        )
    }

    /// Lines that begin a session at the first edge and go on with it at the second.
    fn resumption(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, ..] = self.layout.edges.as_slice() else { return Ok(()) };
        let shared = self.layout.store.address().is_some();
        writeln!(f, "A session of one edge at another, by ticket{}:", if shared { " and by id" } else { "" })?;
        let kinds = [("ticket", "-tls1_2"), ("id", "-tls1_2 -no_ticket")];
        for (kind, options) in kinds.into_iter().filter(|(kind, _)| shared || *kind == "ticket") {
            let session = quoted(&self.layout.directory.join(kind).with_extension("session"));
            for (edge, option) in [(first, "-sess_out"), (second, "-sess_in")] {
                let port = edge.tls.port();
                let client = format!("openssl s_client -connect localhost:{port} -servername localhost {options}");
                let authority = self.file("ca.pem");
                writeln!(
                    f,
                    "  {client} -CAfile {authority} {option} {session} </dev/null 2>&1 | grep -E '^(New|Reused),'"
                )?;
            }
        }
        Ok(())
    }

    fn file(&self, name: &str) -> String {
        quoted(&self.layout.pki().join(Path::new(name)))
    }
}

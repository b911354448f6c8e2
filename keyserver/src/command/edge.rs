//! `edge`: certificates of the channel.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use keystead_keyserver::enrolment::{self, EdgeName, Enrolment, Holder, TrustDomain};
use keystead_program::run::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Edge {
    /// Makes the authority that certifies edges and key servers for the channel between them, once
    Authority {
        /// The directory for channel-ca.pem and channel-ca.key
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Certifies an edge: channel.pem, channel.key and channel-ca.pem, and the [[edge]] to add here
    Enroll {
        /// The edge's name, as in spiffe://DOMAIN/edge/NAME
        name: EdgeName,
        /// The deployment's name, as in spiffe://DOMAIN/edge/NAME
        #[arg(long, value_name = "DOMAIN")]
        trust_domain: TrustDomain,
        #[command(flatten)]
        order: Order,
    },
    /// Certifies a key server: channel.pem, channel.key and channel-ca.pem
    EnrollKeyServer {
        /// A name that edges expect of it (their server_name, or the host of its address); may be repeated
        #[arg(long, value_name = "NAME", required = true, value_parser = dns_name)]
        dns: Vec<String>,
        #[command(flatten)]
        order: Order,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Order {
    /// The authority's directory
    #[arg(long, value_name = "DIR")]
    authority: PathBuf,
    /// The directory for the files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A certificate request, whose public key is certified; no key is made then
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// How long the certificate is good
    #[arg(long, value_name = "SPAN", default_value = "90days", value_parser = humantime::parse_duration)]
    validity: Duration,
    /// Certifies the key that is there (or that of --csr) once more, for the same name
    #[arg(long)]
    renew: bool,
}

fn dns_name(text: &str) -> Result<String, String> {
    match rustls_pki_types::DnsName::try_from(text) {
        Ok(name) => Ok(name.as_ref().to_owned()),
        Err(_) => Err("no DNS name".to_owned()),
    }
}

pub(crate) fn run(command: Edge) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let said = match command {
        Edge::Authority { out: directory } => {
            let made = enrolment::create_authority(&directory).map_err(Failure::start)?;
            writeln!(out, "made {}: keep channel-ca.key away from every machine that serves", made.display())
        }
        Edge::Enroll { name, trust_domain, order } => {
            let holder = Holder::edge(&trust_domain, &name);
            let holder = holder.ok_or_else(|| Failure::start(anyhow::anyhow!("{name} makes no identity")))?;
            let (made, holder) = issue(holder, order)?;
            let id = match &holder {
                Holder::Edge(identity) => identity.as_str(),
                Holder::KeyServer(_) => "",
            };
            writeln!(
                out,
                "# made {}\n[[edge]]\nid = {id:?}\n# The names of the keys it may use.\nkeys = []",
                made.display()
            )
        }
        Edge::EnrollKeyServer { dns, order } => {
            let (made, _) = issue(Holder::KeyServer(dns), order)?;
            writeln!(out, "made {}", made.display())
        }
    };
    said.map_err(Failure::start)
}

fn issue(holder: Holder, order: Order) -> Result<(PathBuf, Holder), Failure> {
    let Order { authority, out, csr, validity, renew } = order;
    let enrolment = Enrolment { holder, validity, renew };
    let made = enrolment.issue(&authority, &out, csr.as_deref()).map_err(Failure::start)?;
    Ok((made, enrolment.holder))
}

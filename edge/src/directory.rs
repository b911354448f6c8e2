//! What key servers tell: the table of virtual hosts as it changes with it, and the keys of sessions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};
use keystead_program::observe::Condition;
use keystead_proto::v1;
use tokio::sync::watch;

use crate::identity::IdentitySet;
use crate::sessions::TicketKeys;
use crate::telemetry::Telemetry;
use crate::virtual_host::{HostTemplate, Table};

/// The virtual hosts at this moment. Read on every handshake, replaced whole when identities change.
#[derive(Debug)]
pub struct Directory {
    table: ArcSwap<Table>,
    sources: Mutex<Sources>,
    merged: watch::Sender<IdentitySet>,
    ticket_keys: Arc<TicketKeys>,
    ready: Condition,
    telemetry: Arc<Telemetry>,
}

/// Which key server, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerIndex(pub usize);

/// What the table is made of: the configuration, and what is known, by who told it.
#[derive(Debug)]
struct Sources {
    templates: Vec<HostTemplate>,
    /// From before the last restart.
    remembered: IdentitySet,
    /// What each key server told last; it stays when the key server is gone, for others may serve the same keys.
    servers: Vec<Option<IdentitySet>>,
}

impl Sources {
    /// Where key servers differ about a key, the first in the configuration is believed.
    fn merged(&self) -> IdentitySet {
        let mut told = self.servers.iter().flatten();
        let Some(first) = told.next() else {
            return self.remembered.clone();
        };
        told.fold(first.clone(), IdentitySet::or)
    }
}

impl Directory {
    /// The hosts of a configuration, with the identities remembered from before. `ready` holds while every host has an
    /// identity.
    pub fn new(
        templates: Vec<HostTemplate>,
        servers: usize,
        remembered: IdentitySet,
        ready: Condition,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        templates.iter().for_each(HostTemplate::warn_of_config);
        let sources = Sources { templates, remembered, servers: vec![None; servers] };
        let directory = Self {
            table: ArcSwap::default(),
            sources: Mutex::new(sources),
            merged: watch::Sender::new(IdentitySet::default()),
            ticket_keys: Arc::new(TicketKeys::new(telemetry.clone())),
            ready,
            telemetry,
        };
        directory.rebuild(&directory.lock());
        directory
    }

    /// The table at this moment. The guard is for the length of a lookup.
    pub fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// A key server has told which identities there are. Whether a host wants one of them for RSA key transport, so that
    /// leases of that key server's will be needed.
    pub fn tell(&self, server: ServerIndex, message: v1::Identities) -> bool {
        let mut sources = self.lock();
        let before = self.merged.borrow().clone();
        let set = IdentitySet::read(message, &before);
        let needs_leases = sources.templates.iter().any(|template| template.needs_leases(&set));
        if let Some(slot) = sources.servers.get_mut(server.0)
            && !slot.as_ref().is_some_and(|told| told.is_same(&set))
        {
            *slot = Some(set);
            self.rebuild(&sources);
        }
        needs_leases
    }

    /// The hosts of another configuration take the place of those before.
    pub fn replace(&self, templates: Vec<HostTemplate>) {
        templates.iter().for_each(HostTemplate::warn_of_config);
        let mut sources = self.lock();
        sources.templates = templates;
        self.rebuild(&sources);
    }

    /// The keys that sessions are sealed under.
    pub fn ticket_keys(&self) -> &Arc<TicketKeys> {
        &self.ticket_keys
    }

    /// The identities that count, and each change of them.
    pub fn identities(&self) -> watch::Receiver<IdentitySet> {
        self.merged.subscribe()
    }

    fn rebuild(&self, sources: &Sources) {
        let identities = sources.merged();
        let table = Table::build(&sources.templates, &identities);
        self.report(&sources.templates, &table, &identities);
        self.table.store(Arc::new(table));
        self.merged.send_replace(identities);
    }

    fn report(&self, templates: &[HostTemplate], table: &Table, identities: &IdentitySet) {
        let before = self.merged.borrow();
        for template in templates {
            template.warn_of_keys(identities, &before);
        }
        let bare: Vec<_> =
            table.hosts().iter().filter(|host| !host.has_identity()).map(|host| host.name.as_str()).collect();
        self.telemetry.identities.set(count(identities.len()));
        self.telemetry.hosts_without_identity.set(count(bare.len()));
        tracing::info!(identities = identities.len(), hosts = table.hosts().len(), bare = bare.len(), "virtual hosts");
        if bare.is_empty() {
            self.ready.met();
        } else {
            self.ready.unmet(format!("no certificate for {}", bare.join(", ")));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sources> {
        // The changes under the lock are assignments of whole values.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
    use super::*;
    use crate::identity::tests::entry;
    use crate::virtual_host::tests::template;
    use keystead_program::observe::Readiness;
    use prometheus_client::registry::Registry;

    fn message(identities: &[&v1::Identity]) -> v1::Identities {
        v1::Identities { identities: identities.iter().map(|entry| (*entry).clone()).collect() }
    }

    fn directory(remembered: IdentitySet) -> (Directory, Readiness) {
        let readiness = Readiness::new();
        let templates = vec![template(&["a.example"], false, &["a"]), template(&["b.example"], false, &["b"])];
        let telemetry = Arc::new(Telemetry::register(&mut Registry::default()));
        (Directory::new(templates, 2, remembered, readiness.condition("identities"), telemetry), readiness)
    }

    fn shown(directory: &Directory, name: &str) -> Option<Vec<u8>> {
        let table = directory.table();
        let host = table.find(Some(name)).unwrap();
        host.parameters.identities.first().map(|identity| identity.chain()[0].clone())
    }

    #[test]
    fn hosts_get_their_identities_as_key_servers_tell_them() {
        let (directory, readiness) = directory(IdentitySet::default());
        assert_eq!(readiness.reasons(), ["identities: no certificate for a.example, b.example"]);
        let (a, b) = (entry("a", "a.example"), entry("b", "b.example"));
        directory.tell(ServerIndex(0), message(&[&a]));
        assert_eq!(shown(&directory, "a.example").unwrap(), a.certificate_chain[0]);
        assert_eq!(readiness.reasons(), ["identities: no certificate for b.example"]);
        directory.tell(ServerIndex(1), message(&[&b]));
        assert!(readiness.is_ready());
        directory.tell(ServerIndex(0), message(&[]));
        assert_eq!(shown(&directory, "a.example"), None);
        assert_eq!(shown(&directory, "b.example").unwrap(), b.certificate_chain[0]);
    }

    #[test]
    fn another_configuration_takes_the_place_of_the_one_before() {
        let (directory, readiness) = directory(IdentitySet::default());
        let c = entry("c", "c.example");
        directory.tell(ServerIndex(0), message(&[&c]));
        directory.replace(vec![template(&["c.example"], false, &["c"])]);
        assert!(readiness.is_ready());
        assert_eq!(shown(&directory, "c.example").unwrap(), c.certificate_chain[0]);
        assert!(directory.table().find(Some("a.example")).is_none());
    }

    #[test]
    fn the_first_key_server_is_believed_and_nothing_changes_when_the_same_is_told_again() {
        let (directory, _) = directory(IdentitySet::default());
        let (one, two) = (entry("a", "a.example"), entry("a", "a.example"));
        directory.tell(ServerIndex(1), message(&[&two]));
        directory.tell(ServerIndex(0), message(&[&one]));
        assert_eq!(shown(&directory, "a.example").unwrap(), one.certificate_chain[0]);
        let table = directory.table.load_full();
        directory.tell(ServerIndex(0), message(&[&one]));
        assert!(Arc::ptr_eq(&table, &directory.table.load_full()));
    }

    #[test]
    fn leases_are_needed_where_host_and_key_server_both_have_key_transport() {
        let telemetry = Arc::new(Telemetry::register(&mut Registry::default()));
        let mut with = template(&["a.example"], false, &["a"]);
        with.allow_key_transport();
        let templates = vec![with, template(&["b.example"], false, &["b"])];
        let ready = Readiness::new().condition("identities");
        let directory = Directory::new(templates, 1, IdentitySet::default(), ready, telemetry);
        for (name, danger_rsa_key_transport, needed) in [("a", true, true), ("a", false, false), ("b", true, false)] {
            let told = v1::Identity { danger_rsa_key_transport, ..entry(name, "a.example") };
            assert_eq!(directory.tell(ServerIndex(0), message(&[&told])), needed, "{name} {danger_rsa_key_transport}");
            assert_eq!(directory.tell(ServerIndex(0), message(&[&told])), needed, "the same again");
        }
    }

    #[test]
    fn what_is_remembered_serves_until_a_key_server_tells() {
        let (a, b) = (entry("a", "a.example"), entry("b", "b.example"));
        let (directory, readiness) = directory(IdentitySet::read(message(&[&a, &b]), &IdentitySet::default()));
        assert!(readiness.is_ready());
        directory.tell(ServerIndex(1), message(&[&b]));
        assert_eq!(shown(&directory, "a.example"), None);
        assert_eq!(shown(&directory, "b.example").unwrap(), b.certificate_chain[0]);
    }
}

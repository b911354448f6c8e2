//! What key servers tell: the table of virtual hosts as it changes with it, and the keys of sessions.

use std::sync::atomic::{AtomicUsize, Ordering};
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
    /// Locked for as long as thousands of certificates are read: never on a reactor.
    sources: Mutex<Sources>,
    links: Links,
    merged: watch::Sender<IdentitySet>,
    lease_needs: watch::Sender<LeaseNeeds>,
    ticket_keys: Arc<TicketKeys>,
    ready: Condition,
    telemetry: Arc<Telemetry>,
}

/// Which key server, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerIndex(pub usize);

/// Of which key servers leases are needed: a host wants one of the identities they told for RSA key transport.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LeaseNeeds(Vec<bool>);

impl LeaseNeeds {
    /// Whether leases of this key server's are needed.
    pub fn of(&self, server: ServerIndex) -> bool {
        self.0.get(server.0).copied().unwrap_or(false)
    }
}

/// What the table is made of: the configuration, and what is known, by who told it.
#[derive(Debug)]
struct Sources {
    templates: Vec<HostTemplate>,
    /// From before the last restart, until every key server was heard.
    remembered: IdentitySet,
    servers: Vec<Server>,
    /// Whether nobody is waited for any longer who may yet tell of identities that hosts want for.
    settled: bool,
    /// Those without a certificate, as the log told last.
    bare: Vec<String>,
}

/// A key server, and its word.
#[derive(Debug, Default)]
struct Server {
    /// What it told last. It stays when the key server is gone, for others may serve the same keys, and sessions go on
    /// without any.
    told: Option<IdentitySet>,
    /// Whether it said that it knows no such edge.
    refused: bool,
}

impl Server {
    /// Whether it said which identities it lets this edge use, if any.
    fn is_heard(&self) -> bool {
        self.refused || self.told.is_some()
    }
}

/// Connections that stand, by key server.
#[derive(Debug)]
struct Links(Vec<AtomicUsize>);

impl Links {
    fn up(&self, server: ServerIndex) {
        if let Some(links) = self.0.get(server.0) {
            links.fetch_add(1, Ordering::Release);
        }
    }

    fn down(&self, server: ServerIndex) {
        if let Some(links) = self.0.get(server.0) {
            links.fetch_sub(1, Ordering::Release);
        }
    }

    fn is_any_to(&self, server: ServerIndex) -> bool {
        self.0.get(server.0).is_some_and(|links| links.load(Ordering::Acquire) > 0)
    }
}

impl Sources {
    /// Where key servers differ about a key, the first in the configuration is believed. What is remembered stands in for
    /// those that were not heard, for they may hold what nobody else does.
    fn merged(&self) -> IdentitySet {
        let told = self.servers.iter().filter_map(|server| server.told.as_ref());
        told.fold(IdentitySet::default(), IdentitySet::or).or(&self.remembered)
    }

    /// Takes the word of a key server. What it withdraws by it is withdrawn from the words of those that cannot be asked
    /// too, and from what is remembered, so that no host goes on with a key that was disabled while one of them was
    /// unreachable. Those that can be asked, by `links`, speak for themselves. Whether anything is otherwise than before.
    fn tell(&mut self, server: ServerIndex, set: IdentitySet, links: &Links) -> bool {
        let Some(told) = self.servers.get_mut(server.0).map(|server| &mut server.told) else { return false };
        if told.as_ref().is_some_and(|told| told.is_same(&set)) {
            return false;
        }
        let before = told.replace(set.clone()).unwrap_or_default();
        let withdrawn = before.without(&set);
        let others = self.servers.iter_mut().enumerate();
        let gone = others.filter(|(index, _)| *index != server.0 && !links.is_any_to(ServerIndex(*index)));
        for told in gone.filter_map(|(_, other)| other.told.as_mut()) {
            *told = std::mem::take(told).without(&withdrawn);
        }
        self.remembered = std::mem::take(&mut self.remembered).without(&withdrawn);
        self.forget_if_all_are_heard();
        true
    }

    /// A key server knows no such edge. Whether anything may be otherwise than before.
    fn refuse(&mut self, server: ServerIndex) -> bool {
        let Some(server) = self.servers.get_mut(server.0).filter(|server| !server.is_heard()) else { return false };
        server.refused = true;
        self.forget_if_all_are_heard();
        true
    }

    fn forget_if_all_are_heard(&mut self) {
        if self.servers.iter().all(Server::is_heard) {
            self.remembered = IdentitySet::default();
        }
    }

    fn lease_needs(&self) -> LeaseNeeds {
        let needs = |told: &IdentitySet| self.templates.iter().any(|template| template.needs_leases(told));
        LeaseNeeds(self.servers.iter().map(|server| server.told.as_ref().is_some_and(needs)).collect())
    }
}

impl Directory {
    /// The hosts of a configuration, with the identities remembered from before. `ready` holds while any host has an
    /// identity; at first, until [`Self::wait_no_more`], only if every host has, or every key server was heard.
    pub fn new(
        templates: Vec<HostTemplate>,
        servers: usize,
        remembered: IdentitySet,
        ready: Condition,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        templates.iter().for_each(HostTemplate::warn_of_config);
        let links = Links((0..servers).map(|_| AtomicUsize::new(0)).collect());
        let servers = (0..servers).map(|_| Server::default()).collect();
        let sources = Sources { templates, remembered, servers, settled: false, bare: Vec::new() };
        let directory = Self {
            table: ArcSwap::default(),
            sources: Mutex::new(sources),
            links,
            merged: watch::Sender::new(IdentitySet::default()),
            lease_needs: watch::Sender::default(),
            ticket_keys: Arc::new(TicketKeys::new(telemetry.clone())),
            ready,
            telemetry,
        };
        directory.rebuild(&mut directory.lock());
        directory
    }

    /// The table at this moment. The guard is for the length of a lookup.
    pub fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// A key server has told which identities there are. Blocks while they are read.
    pub fn tell(&self, server: ServerIndex, message: v1::Identities) {
        let mut sources = self.lock();
        let before = self.merged.borrow().clone();
        let set = IdentitySet::read(message, &before);
        if sources.tell(server, set, &self.links) {
            self.rebuild(&mut sources);
        }
    }

    /// A key server has told what is otherwise than it told before, on the same connection. Blocks while it is read.
    pub fn tell_changes(&self, server: ServerIndex, changes: v1::IdentityChanges) {
        let mut sources = self.lock();
        let before = self.merged.borrow().clone();
        let told = sources.servers.get(server.0).and_then(|server| server.told.clone());
        let mut set = told.unwrap_or_default();
        set.change(changes, &before);
        if sources.tell(server, set, &self.links) {
            self.rebuild(&mut sources);
        }
    }

    /// A key server says that it knows no such edge. Blocks while others tell.
    pub fn refuse(&self, server: ServerIndex) {
        let mut sources = self.lock();
        if sources.refuse(server) {
            self.rebuild(&mut sources);
        }
    }

    /// Key servers that were not heard yet are not waited for any longer: the edge is ready if it can serve any host. Blocks
    /// while they tell.
    pub fn wait_no_more(&self) {
        let mut sources = self.lock();
        sources.settled = true;
        self.judge(&mut sources, &self.table.load());
    }

    /// One more connection to a key server stands.
    pub fn link_up(&self, server: ServerIndex) {
        self.links.up(server);
    }

    /// A connection to a key server is gone, of those that stood.
    pub fn link_down(&self, server: ServerIndex) {
        self.links.down(server);
    }

    /// The hosts of another configuration take the place of those before. Blocks while their certificates are read.
    pub fn replace(&self, templates: Vec<HostTemplate>) {
        templates.iter().for_each(HostTemplate::warn_of_config);
        let mut sources = self.lock();
        sources.templates = templates;
        self.rebuild(&mut sources);
    }

    /// The keys that sessions are sealed under.
    pub fn ticket_keys(&self) -> &Arc<TicketKeys> {
        &self.ticket_keys
    }

    /// The identities that count, and each change of them.
    pub fn identities(&self) -> watch::Receiver<IdentitySet> {
        self.merged.subscribe()
    }

    /// Of which key servers leases are needed, and each change of it: by what they tell, and by another configuration.
    pub fn lease_needs(&self) -> watch::Receiver<LeaseNeeds> {
        self.lease_needs.subscribe()
    }

    fn rebuild(&self, sources: &mut Sources) {
        let identities = sources.merged();
        let table = Arc::new(Table::build(&sources.templates, &identities));
        self.table.store(table.clone());
        let before = self.merged.send_replace(identities);
        self.lease_needs.send_if_modified(|needs| {
            let before = std::mem::replace(needs, sources.lease_needs());
            *needs != before
        });
        // The last: whom it tells that the edge is ready comes at once, and is to find the table.
        self.report(sources, &table, &before);
    }

    fn report(&self, sources: &mut Sources, table: &Table, before: &IdentitySet) {
        let identities = self.merged.borrow();
        for template in &sources.templates {
            template.warn_of_keys(&identities, before);
        }
        self.telemetry.identities.set(count(identities.len()));
        let bare = self.judge(sources, table);
        tracing::info!(identities = identities.len(), hosts = table.hosts().len(), bare, "virtual hosts");
    }

    /// Says whether clients should come. For a host without a certificate an edge does not send away those of all others:
    /// every edge would lack the same certificate, and nobody would be left to serve them. How many such hosts there are.
    fn judge(&self, sources: &mut Sources, table: &Table) -> usize {
        let bare = table.hosts().iter().filter(|host| !host.has_identity()).map(|host| host.name.clone());
        let bare: Vec<_> = bare.collect();
        let missing = bare.len();
        self.telemetry.hosts_without_identity.set(count(missing));
        sources.settled |= bare.is_empty() || sources.servers.iter().all(Server::is_heard);
        if bare.is_empty() || (sources.settled && missing < table.hosts().len()) {
            self.ready.met();
        } else {
            self.ready.unmet(format!("no certificate for {}", excerpt(&bare)));
        }
        if sources.settled && sources.bare != bare {
            if !bare.is_empty() {
                tracing::warn!(hosts = excerpt(&bare), "no certificate");
            }
            sources.bare = bare;
        }
        missing
    }

    fn lock(&self) -> MutexGuard<'_, Sources> {
        // The changes under the lock are assignments of whole values.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first of `names`, and how many others there are.
fn excerpt(names: &[String]) -> String {
    match names.split_at_checked(EXCERPT) {
        Some((first, others)) if !others.is_empty() => format!("{} and {} more", first.join(", "), others.len()),
        Some(_) | None => names.join(", "),
    }
}

/// Names in one line of the log.
const EXCERPT: usize = 10;

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
    fn who_is_told_that_the_edge_is_ready_finds_the_hosts() {
        let (directory, readiness) = directory(IdentitySet::default());
        directory.wait_no_more();
        let identities = directory.identities();
        std::thread::scope(|scope| {
            // Whoever changes the identities waits until this is given back.
            let before = identities.borrow();
            scope.spawn(|| directory.tell(ServerIndex(0), message(&[&entry("a", "a.example")])));
            while shown(&directory, "a.example").is_none() {
                std::thread::yield_now();
            }
            assert!(!readiness.is_ready());
            drop(before);
        });
        assert!(readiness.is_ready());
    }

    #[test]
    fn one_host_without_a_certificate_does_not_take_the_others_their_clients() {
        let (directory, readiness) = directory(IdentitySet::default());
        let (a, b) = (entry("a", "a.example"), entry("b", "b.example"));
        directory.tell(ServerIndex(0), message(&[&a]));
        directory.tell(ServerIndex(1), message(&[&b]));
        directory.tell(ServerIndex(0), message(&[]));
        assert!(readiness.is_ready());
        assert_eq!(directory.telemetry.hosts_without_identity.get(), 1);
        directory.tell(ServerIndex(1), message(&[]));
        assert_eq!(readiness.reasons(), ["identities: no certificate for a.example, b.example"]);
        directory.tell(ServerIndex(1), message(&[&b]));
        assert!(readiness.is_ready());
    }

    #[test]
    fn an_edge_that_starts_while_a_key_is_disabled_is_ready_when_all_key_servers_were_heard_or_are_not_waited_for() {
        let a = entry("a", "a.example");
        let hear_the_other = |directory: &Directory| directory.tell(ServerIndex(1), message(&[]));
        for settle in [hear_the_other, Directory::wait_no_more] {
            let (directory, readiness) = directory(IdentitySet::default());
            directory.tell(ServerIndex(0), message(&[&a]));
            assert!(!readiness.is_ready());
            settle(&directory);
            assert!(readiness.is_ready());
        }
        let (directory, readiness) = directory(IdentitySet::default());
        directory.wait_no_more();
        assert!(!readiness.is_ready(), "it can serve nobody");
    }

    #[test]
    fn no_line_names_thousands_of_hosts() {
        let names: Vec<_> = (0..12).map(|number| number.to_string()).collect();
        assert_eq!(excerpt(names.get(..10).unwrap()), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9");
        assert_eq!(excerpt(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
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
            for time in ["once", "the same again"] {
                directory.tell(ServerIndex(0), message(&[&told]));
                assert_eq!(directory.lease_needs().borrow().of(ServerIndex(0)), needed, "{name} {time}");
            }
        }
    }

    #[test]
    fn leases_are_needed_as_soon_as_a_configuration_brings_key_transport() {
        let (directory, _) = directory(IdentitySet::default());
        let told = v1::Identity { danger_rsa_key_transport: true, ..entry("a", "a.example") };
        directory.tell(ServerIndex(1), message(&[&told]));
        let mut needs = directory.lease_needs();
        assert!(!needs.borrow_and_update().of(ServerIndex(1)));
        let mut with = template(&["a.example"], false, &["a"]);
        with.allow_key_transport();
        directory.replace(vec![with]);
        assert!(needs.has_changed().unwrap());
        assert!(needs.borrow().of(ServerIndex(1)) && !needs.borrow().of(ServerIndex(0)));
    }

    #[test]
    fn a_key_that_one_key_server_withdraws_is_not_kept_for_one_that_is_gone() {
        let (directory, _) = directory(IdentitySet::default());
        let (a, b) = (entry("a", "a.example"), entry("b", "b.example"));
        for server in [ServerIndex(0), ServerIndex(1)] {
            directory.link_up(server);
            directory.tell(server, message(&[&a, &b]));
        }
        // It was connected twice, and speaks for itself until it is gone altogether.
        directory.link_up(ServerIndex(1));
        directory.link_down(ServerIndex(1));
        directory.tell(ServerIndex(0), message(&[&b]));
        assert!(shown(&directory, "a.example").is_some());
        directory.tell(ServerIndex(0), message(&[&a, &b]));
        directory.link_down(ServerIndex(1));
        directory.tell(ServerIndex(0), message(&[&b]));
        assert_eq!(shown(&directory, "a.example"), None);
        assert!(shown(&directory, "b.example").is_some());
        directory.link_up(ServerIndex(1));
        directory.tell(ServerIndex(1), message(&[&a]));
        assert!(shown(&directory, "a.example").is_some());
    }

    #[test]
    fn connections_come_and_go_without_waiting_for_certificates_that_are_read() {
        let (directory, _) = directory(IdentitySet::default());
        // It would be waited for for ever.
        let _reading = directory.lock();
        directory.link_up(ServerIndex(0));
        directory.link_down(ServerIndex(0));
    }

    #[test]
    fn a_key_that_only_an_unreachable_key_server_holds_stays() {
        let (directory, _) = directory(IdentitySet::default());
        let (a, b) = (entry("a", "a.example"), entry("b", "b.example"));
        directory.link_up(ServerIndex(1));
        directory.tell(ServerIndex(1), message(&[&a]));
        directory.link_down(ServerIndex(1));
        directory.link_up(ServerIndex(0));
        for told in [&[&b][..], &[]] {
            directory.tell(ServerIndex(0), message(told));
            assert!(shown(&directory, "a.example").is_some());
        }
    }

    #[test]
    fn what_is_remembered_serves_until_every_key_server_was_heard() {
        let (a, b) = (entry("a", "a.example"), entry("b", "b.example"));
        let remembered = IdentitySet::read(message(&[&a, &b]), &IdentitySet::default());
        let tell_nothing = |directory: &Directory| directory.tell(ServerIndex(0), message(&[]));
        let refuse = |directory: &Directory| directory.refuse(ServerIndex(0));
        for be_heard in [tell_nothing, refuse] {
            let (directory, readiness) = directory(remembered.clone());
            assert!(readiness.is_ready());
            directory.tell(ServerIndex(1), message(&[&b]));
            assert_eq!(shown(&directory, "a.example").unwrap(), a.certificate_chain[0]);
            be_heard(&directory);
            assert_eq!(shown(&directory, "a.example"), None);
            assert_eq!(shown(&directory, "b.example").unwrap(), b.certificate_chain[0]);
        }
    }

    #[test]
    fn what_is_withdrawn_is_not_remembered_for_those_that_were_not_heard() {
        let (a, b) = (entry("a", "a.example"), entry("b", "b.example"));
        let (directory, _) = directory(IdentitySet::read(message(&[&a, &b]), &IdentitySet::default()));
        directory.tell(ServerIndex(1), message(&[&a, &b]));
        directory.tell(ServerIndex(1), message(&[&b]));
        assert_eq!(shown(&directory, "a.example"), None);
    }
}

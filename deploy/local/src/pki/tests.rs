#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;

fn files_below(directory: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

fn verify(anchor: &Path, arguments: &[&str], certificate: &Path) -> bool {
    let mut openssl = Command::new("openssl");
    openssl.args(["verify", "-x509_strict", "-CAfile"]).arg(anchor).args(arguments).arg(certificate);
    openssl.output().unwrap().status.success()
}

#[test]
fn openssl_accepts_the_certificates_for_their_names_and_purposes() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    Deployment::localhost(["one"]).provide(root).unwrap();

    for served in ["keyserver/localhost-rsa.pem", "keyserver/localhost-p256.pem"] {
        let served = root.join(served);
        for name in [["-verify_hostname", "localhost"], ["-verify_ip", "127.0.0.1"], ["-verify_ip", "::1"]] {
            assert!(verify(&root.join("ca.pem"), &[&["-purpose", "sslserver"], &name[..]].concat(), &served));
        }
        assert!(!verify(&root.join("ca.pem"), &["-verify_hostname", "example.com"], &served));
        assert!(!verify(&root.join("keyserver/channel-ca.pem"), &[], &served));
    }
    for (served, name) in [("localhost-rsa", "mutual.localhost"), ("legacy.localhost-rsa", "legacy.localhost")] {
        let served = root.join("keyserver").join(format!("{served}.pem"));
        assert!(verify(&root.join("ca.pem"), &["-purpose", "sslserver", "-verify_hostname", name], &served));
    }
    let (clients, client) = (root.join("edge-one/client-ca.pem"), root.join("client.pem"));
    assert!(verify(&clients, &["-purpose", "sslclient"], &client));
    assert!(!verify(&root.join("ca.pem"), &[], &client));
    let channel = root.join("edge-one/channel-ca.pem");
    let purpose = ["-purpose", "sslserver", "-verify_hostname", KEY_SERVER_NAME];
    assert!(verify(&channel, &purpose, &root.join("keyserver/channel.pem")));
    assert!(verify(&channel, &["-purpose", "sslclient"], &root.join("edge-one/channel.pem")));
    assert!(!verify(&channel, &["-purpose", "sslserver"], &root.join("edge-one/channel.pem")));
}

#[test]
fn an_edge_gets_its_channel_certificate_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    Deployment::localhost(["one", "two"]).provide(directory.path()).unwrap();
    let expected = BTreeSet::from(["channel-ca.pem", "channel.key", "channel.pem", "client-ca.pem"].map(String::from));
    assert_eq!(files_below(&directory.path().join("edge-one")), expected);
    assert_eq!(files_below(&directory.path().join("edge-two")), expected);
}

#[test]
fn only_the_owner_reads_private_keys() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    Deployment::localhost(["one"]).provide(root).unwrap();
    for key in [
        "authority/ca.key",
        "client.key",
        "keyserver/localhost-rsa.key",
        "keyserver/channel.key",
        "edge-one/channel.key",
    ] {
        assert_eq!(fs::metadata(root.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
    }
}

#[test]
fn certificates_stay_until_something_they_depend_on_changes() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mut deployment = Deployment::localhost(["one"]);
    assert_eq!(deployment.provide(root).unwrap().len(), 6);
    assert_eq!(deployment.provide(root).unwrap().len(), 0);

    deployment.served.push("www.localhost".into());
    let served = ["localhost-rsa.pem", "localhost-p256.pem"].map(|file| root.join("keyserver").join(file));
    assert_eq!(deployment.provide(root).unwrap(), served);

    deployment.edges.push("two".into());
    assert_eq!(deployment.provide(root).unwrap(), [root.join("edge-two/channel.pem")]);

    fs::copy(root.join("edge-one/channel.key"), root.join("edge-two/channel.key")).unwrap();
    assert_eq!(deployment.provide(root).unwrap(), [root.join("edge-two/channel.pem")]);

    fs::remove_file(root.join("authority/ca.key")).unwrap();
    let [rsa, p256] = served;
    let legacy = root.join("keyserver/legacy.localhost-rsa.pem");
    assert_eq!(deployment.provide(root).unwrap(), [rsa, p256, legacy]);

    fs::remove_file(root.join("authority/client-ca.key")).unwrap();
    assert_eq!(deployment.provide(root).unwrap(), [root.join("client.pem")]);
}

#[test]
fn a_name_that_would_leave_the_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Deployment::localhost(["../one"]).provide(directory.path()).is_err());
    assert!(Deployment::localhost([".."]).provide(directory.path()).is_err());
    assert!(Deployment { served: vec!["*.localhost".into()], ..Deployment::localhost(["one"]) }.check().is_err());
}

#[test]
fn an_owner_is_two_numbers() {
    assert!("65532:65532".parse::<Owner>().is_ok());
    assert!("nobody:nogroup".parse::<Owner>().is_err());
    assert!("65532".parse::<Owner>().is_err());
}

#[test]
fn the_ticket_secret_is_made_once_and_for_its_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state/ticket-keys.toml");
    assert!(provide_ticket_secret(&file, None).unwrap());
    let made = fs::read_to_string(&file).unwrap();
    assert!(!provide_ticket_secret(&file, None).unwrap());
    assert_eq!(fs::read_to_string(&file).unwrap(), made);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

//! How to get a connection: to one server, to the master that sentinels name, or to a cluster.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, IntoConnectionInfo,
    RedisResult, TlsCertificates, TlsMode,
};

use super::config::{SharedConfig, SharedKind};

/// For connecting, greeting and logging in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For one answer. Those who ask have bounds of their own, which are shorter.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where connections come from.
pub(super) enum Servers {
    Single(Box<Client>),
    Sentinel(Box<SentinelClient>),
    Cluster(Box<ClusterClient>),
}

/// A connection that many can use at one time.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) async fn ask<T: FromRedisValue>(&self, command: Cmd) -> RedisResult<T> {
        match self.clone() {
            Self::One(mut connection) => command.query_async(&mut connection).await,
            Self::Cluster(mut connection) => command.query_async(&mut connection).await,
        }
    }
}

impl Servers {
    /// Of a checked configuration.
    pub(super) fn new(config: &SharedConfig) -> RedisResult<Self> {
        match &config.kind {
            SharedKind::Single => single(config),
            SharedKind::Sentinel { master_name } => sentinel(config, master_name),
            SharedKind::Cluster => cluster(config),
        }
    }

    /// A connection that answers.
    pub(super) async fn connect(&mut self) -> RedisResult<Connection> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        Ok(match self {
            Self::Single(client) => {
                Connection::One(client.get_multiplexed_async_connection_with_config(&settings).await?)
            }
            Self::Sentinel(client) => Connection::One(client.get_async_connection_with_config(&settings).await?),
            Self::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
        })
    }
}

fn single(config: &SharedConfig) -> RedisResult<Servers> {
    let Some(address) = addresses(config).into_iter().next() else {
        return Err((redis::ErrorKind::InvalidClientConfig, "no address").into());
    };
    let mut settings = redis::RedisConnectionInfo::default().set_db(i64::from(config.database));
    if let Some(username) = &config.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &config.password {
        settings = settings.set_password(password.expose());
    }
    let address = address.into_connection_info()?.set_redis_settings(settings);
    let client = match certificates(config) {
        Some(certificates) => Client::build_with_tls(address, certificates)?,
        None => Client::open(address)?,
    };
    Ok(Servers::Single(Box::new(client)))
}

fn sentinel(config: &SharedConfig, master_name: &str) -> RedisResult<Servers> {
    let mut builder = SentinelClientBuilder::new(addresses(config), master_name, SentinelServerType::Master)?
        .set_client_to_redis_db(i64::from(config.database));
    if let Some(username) = &config.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &config.password {
        builder = builder.set_client_to_redis_password(password.expose());
    }
    if let Some(password) = &config.sentinel_password {
        builder = builder.set_client_to_sentinel_password(password.expose());
    }
    if let Some(certificates) = certificates(config) {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(certificates);
    }
    Ok(Servers::Sentinel(Box::new(builder.build()?)))
}

fn cluster(config: &SharedConfig) -> RedisResult<Servers> {
    let addresses: RedisResult<Vec<ConnectionInfo>> =
        addresses(config).into_iter().map(IntoConnectionInfo::into_connection_info).collect();
    let mut builder = ClusterClientBuilder::new(addresses?)
        .connection_timeout(CONNECT_TIMEOUT)
        .response_timeout(RESPONSE_TIMEOUT)
        // Within the time of one lookup there is none for many tries.
        .retries(2)
        .max_retry_wait(20);
    if let Some(username) = &config.username {
        builder = builder.username(username);
    }
    if let Some(password) = &config.password {
        builder = builder.password(password.expose());
    }
    if let Some(certificates) = certificates(config) {
        builder = builder.tls(TlsMode::Secure).certs(certificates);
    }
    Ok(Servers::Cluster(Box::new(builder.build()?)))
}

fn addresses(config: &SharedConfig) -> Vec<ConnectionAddr> {
    let address = |address: &keystead_program::channel::HostPort| {
        let (host, port) = (address.host().to_owned(), address.port());
        match &config.tls {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        }
    };
    config.addresses.iter().map(address).collect()
}

fn certificates(config: &SharedConfig) -> Option<TlsCertificates> {
    let tls = config.tls.as_ref()?;
    let client_tls = tls.own.as_ref().map(|own| redis::ClientTlsConfig {
        client_cert: own.certificate.clone(),
        client_key: own.private_key.expose().to_vec(),
    });
    Some(TlsCertificates { client_tls, root_cert: Some(tls.trust_roots.clone()) })
}

//! What a key server says of itself by `grpc.health.v1`.

use std::convert::Infallible;

use keystead_proto::v1::key_server_server::SERVICE_NAME;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::stream::RequestStream;

/// Follows what the key server says, and has `stream` avoided while it says that it does not serve. One that says nothing, for
/// it has no such service, serves: requests tell the rest.
pub(super) async fn follow(channel: Channel, stream: &RequestStream) -> Infallible {
    let request = HealthCheckRequest { service: SERVICE_NAME.to_owned() };
    if let Ok(answers) = HealthClient::new(channel).watch(request).await {
        let mut answers = answers.into_inner();
        while let Ok(Some(answer)) = answers.message().await {
            stream.serve(answer.status() != ServingStatus::NotServing);
        }
    }
    // A broken connection is found out where answers are waited for.
    std::future::pending().await
}

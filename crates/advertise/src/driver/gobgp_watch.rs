//! What GoBGP tells by itself: changes of its best paths and of its sessions.
//!
//! Own changes are told of as well, each by itself; what comes within
//! [`GATHER`] is one event.

use std::time::Duration;

use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tonic::Streaming;

use super::{
    Events, Failure, PATIENCE,
    gobgp::{Client, odd, refused},
    gobgp_api as api,
};

const METHOD: &str = "WatchEvent";
/// Changes come in crowds: thousands when an agent starts.
const GATHER: Duration = Duration::from_millis(50);
/// Longest time for which what comes is taken for one event.
const CROWD: Duration = Duration::from_secs(1);

/// A subscription, made anew after it broke.
pub(super) struct Watch {
    address: String,
    listening: Option<(Runtime, Streaming<api::WatchEventResponse>)>,
}

impl Watch {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            listening: None,
        }
    }

    fn listen(&self) -> Result<(Runtime, Streaming<api::WatchEventResponse>), Failure> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| odd(&error))?;
        let request = api::WatchEventRequest {
            peer: Some(api::Empty {}),
            table: Some(api::WatchTable {
                filters: vec![api::WatchFilter { r#type: api::BEST }],
            }),
        };
        let stream = runtime.block_on(async {
            let listen = async {
                let mut client = Client::connect(&self.address).await?;
                client.stream(METHOD, request).await
            };
            let late = |_| odd(&format!("no answer within {} s", PATIENCE.as_secs()));
            timeout(PATIENCE, listen).await.map_err(late)?
        })?;
        Ok((runtime, stream))
    }
}

impl Events for Watch {
    fn next(&mut self) -> Result<(), Failure> {
        let Some((runtime, mut stream)) = self.listening.take() else {
            // What was before is read now.
            self.listening = Some(self.listen()?);
            return Ok(());
        };
        let mut message = async || match stream.message().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(odd(&"it tells no more of changes")),
            Err(status) => Err(refused(METHOD, &status)),
        };
        runtime.block_on(async {
            message().await?;
            let crowd = async {
                while let Ok(more) = timeout(GATHER, message()).await {
                    more?;
                }
                Ok(())
            };
            timeout(CROWD, crowd).await.unwrap_or(Ok(()))
        })?;
        self.listening = Some((runtime, stream));
        Ok(())
    }
}

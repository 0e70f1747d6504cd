//! What the integration tests and the demo share.

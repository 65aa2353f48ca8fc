//! temp
fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let rt = tokio::runtime::Runtime::new().unwrap();
    rt.block_on(faasnet::demo::run(faasnet::demo::Options {
        nodes: 8,
        image: None,
        origin_rate: std::num::NonZeroU64::new(40 << 20).unwrap(),
        json: false,
        keep: false,
    }))
    .unwrap();
}

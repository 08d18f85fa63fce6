//! Tidemill inside another program, with a stage written in Rust: `cargo run --example embed`

use tidemill::{Outcome, Tidemill};

const CONFIG: &str = r#"
    data_dir = "target/embed-example"
    [http]
    listen = "127.0.0.1:0"
    [streams.web]
    [pipelines.views_by_country]
    stream = "web"
    group_by = ["country"]
    window = { tumbling = "1m" }
    aggregates = { views = "count(*)" }
    [[pipelines.views_by_country.stages]]
    custom = "geo"
"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let geo = |event: &mut tidemill::Event| {
        let dutch = event.get("ip").and_then(|ip| ip.as_str()).is_some_and(|ip| ip.starts_with("10."));
        event.set("country", if dutch { "NL" } else { "elsewhere" });
        Ok(Outcome::Keep)
    };
    let mill = Tidemill::from_str(CONFIG)?.stage("geo", geo).start().await?;
    let web = mill.stream("web")?;
    for ip in ["10.0.0.1", "192.0.2.7", "10.0.0.2"] {
        web.send(format!(r#"{{"ip": "{ip}"}}"#)).await?;
    }
    web.synced().await?; // durable: from here on no crash loses them
    let views = mill.pipeline("views_by_country")?;
    views.committed().wait_for(|position| *position >= 3).await?;
    println!("{}", serde_json::to_string_pretty(&views.now().await?)?);
    mill.shutdown().await;
    Ok(())
}

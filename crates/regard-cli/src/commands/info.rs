use clap::Args;
use regard_kernels::Isa;

use crate::terminal::{Table, print};

/// This machine as Regard sees it: version, instruction sets, threads.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Info {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let available: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
        let used = Isa::chosen()?.to_string();
        let threads = std::thread::available_parallelism()?.get();
        let devices = devices();
        if self.json {
            let facts = serde_json::json!({
                "version": env!("CARGO_PKG_VERSION"),
                "system": std::env::consts::OS,
                "processor": std::env::consts::ARCH,
                "instruction_sets": available,
                "instruction_set_used": used,
                "threads": threads,
                "devices": devices,
            });
            return Ok(print(&format!("{facts:#}\n"))?);
        }
        let mut table = Table::new(["", ""]);
        table.row(["version", env!("CARGO_PKG_VERSION")]);
        table.row([
            "system",
            &format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
        ]);
        table.row(["instruction sets", &available.join(", ")]);
        table.row(["used", &format!("{used} (REGARD_ISA chooses another)")]);
        table.row([
            "threads",
            &format!("{threads} (RAYON_NUM_THREADS sets another number)"),
        ]);
        table.row(["devices", &devices.join(", ")]);
        Ok(print(&table.render())?)
    }
}

/// Devices that this binary was compiled for.
fn devices() -> Vec<&'static str> {
    let compiled = [
        ("cpu", true),
        ("cuda", cfg!(feature = "cuda")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("metal", cfg!(feature = "metal")),
        ("rocm", cfg!(feature = "rocm")),
    ];
    compiled
        .into_iter()
        .filter(|(_, present)| *present)
        .map(|(name, _)| name)
        .collect()
}

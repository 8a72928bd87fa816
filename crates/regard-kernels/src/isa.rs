//! Instruction sets by name: which there are, which is used, which a test run must not do without.

use std::fmt;

use crate::Error;

/// An instruction set that the kernels are compiled for.
///
/// Results may differ in the last bits from one to another; with the same one they never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// No special instruction: every processor has it.
    Scalar,
    /// x86-64 with AVX2 and FMA: 8 numbers at a time.
    Avx2,
    /// x86-64 with AVX-512F and AVX-512DQ: 16 numbers at a time.
    Avx512,
    /// x86-64 with AVX-512-BF16 (and AVX-512BW) besides: pairs of bf16 are multiplied as they are; f32 as with `Avx512`.
    Avx512Bf16,
    /// x86-64 with AMX besides, if the system grants its tiles: 16 × 16 × 32 products of bf16 at a time; f32 as with `Avx512`.
    Amx,
    /// AArch64 with Advanced SIMD: 4 numbers at a time.
    Neon,
    /// The vectors and the register tile of AVX-512 without its instructions, so that unit tests can check everything
    /// but these on any machine.
    #[cfg(test)]
    Wide,
    /// As `Wide`, for pairs of bf16: what stands in for AVX-512-BF16 and AMX.
    #[cfg(test)]
    WidePairs,
}

/// Whether AMD made the processor: it says so in three registers.
pub(crate) fn is_of_amd() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let said = std::arch::x86_64::__cpuid(0);
        [said.ebx, said.edx, said.ecx].map(u32::to_le_bytes) == [*b"Auth", *b"enti", *b"cAMD"]
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl Isa {
    /// Every instruction set there is a kernel for; of two that one processor has, the slower first.
    pub const ALL: [Isa; 6] = [
        Isa::Scalar,
        Isa::Avx2,
        Isa::Avx512,
        Isa::Avx512Bf16,
        Isa::Amx,
        Isa::Neon,
    ];

    /// The instruction sets of this processor, slowest first. `Scalar` is always one of them.
    pub fn available() -> Vec<Isa> {
        Self::ALL
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// The fastest instruction set of this processor.
    pub fn best() -> Isa {
        let mut fastest_first = Self::ALL.into_iter().rev();
        fastest_first
            .find(|isa| isa.is_available())
            .unwrap_or(Isa::Scalar)
    }

    /// The instruction set that is used where none is asked for: the one that the environment variable
    /// `REGARD_ISA` names (`scalar`, `avx2`, `avx512`, `avx512bf16`, `amx`, `neon`), or [`Isa::best`] if it is not set.
    ///
    /// # Errors
    /// The variable names no instruction set, or one that this processor does not have.
    pub fn chosen() -> Result<Isa, Error> {
        match std::env::var_os("REGARD_ISA") {
            Some(name) if !name.is_empty() => {
                let isa = parse("REGARD_ISA", &name.to_string_lossy())?;
                isa.require()?;
                Ok(isa)
            }
            _ => Ok(Isa::best()),
        }
    }

    /// The instruction sets that the environment variable `REGARD_REQUIRE` names (separated by commas): a test run
    /// that could not exercise them must fail, not pass in silence.
    ///
    /// # Errors
    /// The variable names something that is no instruction set.
    pub fn required() -> Result<Vec<Isa>, Error> {
        let names = std::env::var("REGARD_REQUIRE").unwrap_or_default();
        names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(|name| parse("REGARD_REQUIRE", name))
            .collect()
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(test)]
            Isa::Wide | Isa::WidePairs => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && Isa::Avx2.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => {
                is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512bw")
                    && Isa::Avx512.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512Bf16.is_available() && crate::simd::has_amx(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => false,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon => false,
        }
    }

    /// Whether it multiplies pairs of bf16 as they are.
    pub fn multiplies_bf16(self) -> bool {
        match self {
            Isa::Avx512Bf16 | Isa::Amx => true,
            #[cfg(test)]
            Isa::WidePairs => true,
            _ => false,
        }
    }

    pub(crate) fn require(self) -> Result<(), Error> {
        if self.is_available() {
            Ok(())
        } else {
            Err(Error::MissingIsa {
                isa: self,
                available: Isa::available(),
            })
        }
    }
}

fn parse(variable: &'static str, name: &str) -> Result<Isa, Error> {
    let named = |isa: &Isa| isa.to_string() == name.to_ascii_lowercase();
    Isa::ALL
        .into_iter()
        .find(named)
        .ok_or_else(|| Error::UnknownIsa {
            variable,
            found: name.to_owned(),
        })
}

/// By the names that `REGARD_ISA` takes.
impl std::str::FromStr for Isa {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        parse("isa", name)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
            #[cfg(test)]
            Isa::Wide => "wide",
            #[cfg(test)]
            Isa::WidePairs => "wide pairs",
        })
    }
}

//! Cooperative matrices: those that the subgroups of a device multiply (tensor cores, simdgroup matrices), where they are asked
//! for.

use std::fmt;

use burn_wgpu::WgpuSetup;
use wgpu::{CooperativeMatrixProperties, CooperativeScalarType, Features};

use crate::device::api::Api;
use crate::error::{Error, Result};

/// Name of the variable that asks for cooperative matrices: f16, split or f32. Without it there are none.
pub const MATRICES_VARIABLE: &str = "IBOT_COOPERATIVE";

/// Bytes of a workgroup's memory that the kernels with cooperative matrices need.
pub(crate) const LEAST_MATRIX_WORKGROUP_BYTES: u32 = 16_392;
/// Subgroups of a workgroup that they need.
pub(crate) const MATRIX_SUBGROUPS: u32 = 4;

/// Which products are made with cooperative matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cooperative {
    /// Those whose operands are rounded to f16 anyway, as `precision` f16 does.
    F16,
    /// These, and those of f32, each of whose operands becomes two f16.
    Split,
    /// All, on matrices of f32.
    F32,
}

impl Cooperative {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F16, Self::Split, Self::F32];

    const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Split => "split",
            Self::F32 => "f32",
        }
    }

    fn named(value: &str) -> Result<Self> {
        let named = |known: &Self| known.name().eq_ignore_ascii_case(value.trim());
        let remedy = "must be one of f16, split, f32; or unset the variable";
        let found = Self::ALL.into_iter().find(named);
        found.ok_or_else(|| Error::config(MATRICES_VARIABLE, value, remedy))
    }

    /// What [`MATRICES_VARIABLE`] says.
    pub(super) fn asked_for() -> Result<Option<Self>> {
        let value = std::env::var_os(MATRICES_VARIABLE);
        let value = value.as_ref().map(|value| value.to_string_lossy());
        value.map(|value| Self::named(&value)).transpose()
    }

    /// Operands of its matrices. Sums are f32.
    const fn element(self) -> CooperativeScalarType {
        match self {
            Self::F16 | Self::Split => CooperativeScalarType::F16,
            Self::F32 => CooperativeScalarType::F32,
        }
    }

    /// Rows and columns of its matrices, the best first.
    const fn sides(self) -> &'static [u32] {
        match self {
            Self::F16 | Self::Split => &[16, 8],
            Self::F32 => &[8],
        }
    }
}

/// Cooperative matrices of a device, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrices {
    /// Which products they make.
    pub kind: Cooperative,
    /// Rows and columns of each.
    pub side: u32,
    /// Lanes that hold one, at most.
    pub subgroup: u32,
    /// Whether they are Metal's, whose lines naga 29 takes for those of the transposed matrix (wgpu pull request 9451).
    pub is_metal: bool,
}

impl Matrices {
    /// Those of a device that the user asks for, if any.
    ///
    /// # Errors
    /// [`Error::Config`] if the device has none of that kind, or [`MATRICES_VARIABLE`] names no kind.
    pub(super) fn asked_for(api: Api, setup: &WgpuSetup) -> Result<Option<Self>> {
        let Some(kind) = Cooperative::asked_for()? else {
            return Ok(None);
        };
        let info = setup.adapter.get_info();
        let (features, limits) = (setup.device.features(), setup.device.limits());
        let offer = Offer {
            matrices: if features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
                setup.adapter.cooperative_matrix_properties()
            } else {
                Vec::new()
            },
            has_f16: features.contains(Features::SHADER_F16),
            subgroup: (info.subgroup_min_size, info.subgroup_max_size),
            lanes: limits.max_compute_invocations_per_workgroup,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            api,
        };
        let found = offer.matrices_for(kind).map_err(|reason| {
            let remedy = format!("{} {reason}: unset the variable", info.name);
            Error::config(MATRICES_VARIABLE, kind.name(), remedy)
        });
        found.map(Some)
    }
}

/// What a device has.
struct Offer {
    matrices: Vec<CooperativeMatrixProperties>,
    has_f16: bool,
    subgroup: (u32, u32),
    /// Lanes and bytes of a workgroup, at most.
    lanes: u32,
    workgroup_bytes: u32,
    api: Api,
}

impl Offer {
    /// The matrices of a kind, or why there are none.
    fn matrices_for(&self, kind: Cooperative) -> std::result::Result<Matrices, String> {
        let is_metal = self.api == Api::Metal;
        if self.matrices.is_empty() {
            return Err("has no cooperative matrices".into());
        }
        if kind != Cooperative::F32 && is_metal {
            let reason = "multiplies matrices of f16 with sums in f16 alone (wgpu pull request 9629); f32 may do";
            return Err(reason.into());
        }
        if kind != Cooperative::F32 && !self.has_f16 {
            return Err("has no f16 in shaders (SHADER_F16)".into());
        }
        let has = |side: &&u32| {
            self.matrices.iter().any(|matrices| {
                [matrices.m_size, matrices.n_size, matrices.k_size] == [**side; 3]
                    && matrices.ab_type == kind.element()
                    && matrices.cr_type == CooperativeScalarType::F32
            })
        };
        let Some(side) = kind.sides().iter().find(has).copied() else {
            let has: Vec<_> = self
                .matrices
                .iter()
                .map(|of| Sizes(*of).to_string())
                .collect();
            let wanted: Vec<_> = kind.sides().iter().map(u32::to_string).collect();
            return Err(format!(
                "has no matrices of {} squared with {:?} operands and F32 sums, but {}",
                wanted.join(" or "),
                kind.element(),
                has.join(", "),
            ));
        };
        let subgroup = match self.subgroup {
            _ if is_metal => 32, // Apple's, whatever wgpu says of Metal's
            (least, most) if least == most && most >= 8 => most,
            (32, 64) => 64, // AMD's: where it takes 32, two subgroups make the same
            (least, most) => return Err(format!("has subgroups of {least} to {most} lanes")),
        };
        let lanes = MATRIX_SUBGROUPS * subgroup;
        if self.lanes < lanes || self.workgroup_bytes < LEAST_MATRIX_WORKGROUP_BYTES {
            return Err(format!(
                "allows a workgroup {} lanes and {} bytes of memory, these need {lanes} and \
                 {LEAST_MATRIX_WORKGROUP_BYTES}",
                self.lanes, self.workgroup_bytes,
            ));
        }
        Ok(Matrices {
            kind,
            side,
            subgroup,
            is_metal,
        })
    }
}

/// In the words of a refusal.
struct Sizes(CooperativeMatrixProperties);

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = &self.0;
        write!(
            f,
            "{} x {} x {} {:?} to {:?}",
            of.m_size, of.n_size, of.k_size, of.ab_type, of.cr_type
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use CooperativeScalarType::{F16, F32};

    fn matrices(
        sizes: [u32; 3],
        ab_type: CooperativeScalarType,
        cr_type: CooperativeScalarType,
    ) -> CooperativeMatrixProperties {
        CooperativeMatrixProperties {
            m_size: sizes[0],
            n_size: sizes[1],
            k_size: sizes[2],
            ab_type,
            cr_type,
            saturating_accumulation: false,
        }
    }

    fn nvidia() -> Offer {
        Offer {
            matrices: vec![
                matrices([16, 16, 16], F16, F16),
                matrices([16, 16, 16], F16, F32),
                matrices([16, 8, 16], F16, F32),
            ],
            has_f16: true,
            subgroup: (32, 32),
            lanes: 1024,
            workgroup_bytes: 49_152,
            api: Api::Vulkan,
        }
    }

    fn apple() -> Offer {
        Offer {
            matrices: [(F32, F32), (F16, F16), (F16, F32)]
                .map(|(operands, sums)| matrices([8, 8, 8], operands, sums))
                .into(),
            subgroup: (4, 64),
            api: Api::Metal,
            ..nvidia()
        }
    }

    #[test]
    fn devices_get_the_matrices_that_they_have() {
        let of = |offer: &Offer, kind| {
            let found = offer.matrices_for(kind).ok();
            found.map(|found| (found.side, found.subgroup, found.is_metal))
        };
        let amd = Offer {
            subgroup: (32, 64),
            ..nvidia()
        };
        let lavapipe = Offer {
            matrices: vec![matrices([8, 8, 8], F16, F32)],
            subgroup: (8, 8),
            ..nvidia()
        };
        for (offer, f16, f32) in [
            (nvidia(), Some((16, 32, false)), None),
            (amd, Some((16, 64, false)), None),
            (lavapipe, Some((8, 8, false)), None),
            (apple(), None, Some((8, 32, true))),
        ] {
            assert_eq!(of(&offer, Cooperative::F16), f16);
            assert_eq!(of(&offer, Cooperative::Split), f16);
            assert_eq!(of(&offer, Cooperative::F32), f32);
        }
    }

    #[test]
    fn refusals_say_what_is_missing() {
        let bare = Offer {
            matrices: Vec::new(),
            ..nvidia()
        };
        let intel = Offer {
            matrices: vec![matrices([8, 16, 16], F16, F32)],
            subgroup: (8, 32),
            ..nvidia()
        };
        let varied = Offer {
            subgroup: (8, 32),
            ..nvidia()
        };
        let single = Offer {
            has_f16: false,
            ..nvidia()
        };
        let least = Offer {
            workgroup_bytes: 16_384,
            ..nvidia()
        };
        for (offer, said) in [
            (bare, "no cooperative matrices"),
            (
                intel,
                "no matrices of 16 or 8 squared with F16 operands and F32 sums, but 8 x 16 x 16 F16 to F32",
            ),
            (varied, "subgroups of 8 to 32 lanes"),
            (single, "SHADER_F16"),
            (least, "16384 bytes of memory, these need 128 and 16392"),
            (apple(), "f32 may do"),
        ] {
            let reason = offer.matrices_for(Cooperative::Split).unwrap_err();
            assert!(reason.contains(said), "{reason}");
        }
        let refused = Cooperative::named("tf32").unwrap_err().to_string();
        assert!(refused.contains("IBOT_COOPERATIVE = tf32: must be one of f16, split, f32"));
    }
}

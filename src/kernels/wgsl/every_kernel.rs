//! Every kernel that a device may be given, for tests that validate and compile each of them.

use super::attention::AttentionPath;
use super::chunk::{Chunk, Element};
use super::launch::Kernel;
use super::row_team::Team;
use super::walk::Walk;
use super::{
    adamw, copy, cross_entropy, ema, gelu, grad_scale, l2_norm, layer_norm, levels, loss_scale,
    matrix_kernels, normed_linear, rows, sum_of_squares, target_potentials, tokens,
};

/// Every kernel that can reach a device with these workgroups, tensors a dispatch and teacher views: for tests that
/// validate each of them.
pub fn all_kernels(workgroups: &[u32], tensors: &[usize], teacher_views: &[usize]) -> Vec<Kernel> {
    let mut all: Vec<Kernel> = (1..=grad_scale::MAX_SCALARS)
        .map(grad_scale::kernel)
        .collect();
    all.extend(Walk::ALL.map(target_potentials::center_kernel));
    for chunk in Chunk::ALL {
        for walk in Walk::ALL {
            all.push(copy::kernel(walk, chunk));
            all.push(levels::kernel(walk, chunk));
            for element in Element::ALL {
                all.extend(gelu::kernels(walk, chunk, element));
                all.push(rows::gather_kernel(walk, chunk, element));
                all.extend(rows::placed_kernels(walk, chunk, element));
            }
            all.extend(tokens::walking_kernels(walk, chunk));
            for tensors in tensors {
                all.push(ema::kernel(walk, chunk, *tensors));
                all.push(adamw::kernel(walk, chunk, *tensors));
                all.push(sum_of_squares::kernel(walk, chunk, *tensors));
            }
        }
        all.extend(row_kernels(Team::SOFTWARE, chunk));
        for workgroup in workgroups {
            let teams = Team::all_of_rows(*workgroup);
            all.extend(teams.flat_map(|team| row_kernels(team, chunk)));
            all.extend(layer_norm::column_kernels(*workgroup, chunk));
            for element in Element::ALL {
                all.push(rows::sums_kernel(*workgroup, chunk, element));
                all.extend(tokens::sums_kernels(*workgroup, chunk, element));
            }
            all.push(cross_entropy::total_kernel(*workgroup));
            all.extend(target_potentials::kernels(*workgroup, chunk));
            let of_views = |views| cross_entropy::kernels(*workgroup, chunk, views);
            all.extend(teacher_views.iter().copied().flat_map(of_views));
        }
    }
    all.push(loss_scale::kernel());
    all.extend(matrix_kernels::kernels());
    all
}

/// The kernels over rows that a team of lanes shares.
fn row_kernels(team: Team, chunk: Chunk) -> Vec<Kernel> {
    let mut all = layer_norm::row_kernels(team, chunk);
    for element in Element::ALL {
        all.extend(l2_norm::kernels(team, chunk, element));
    }
    all.push(normed_linear::kernel(team, chunk));
    all
}

/// The kernels of attention with heads of these widths that can reach a device.
pub fn attention_kernels(workgroups: &[u32], head_widths: &[usize]) -> Vec<Kernel> {
    let of_width = |head_width: usize, path: AttentionPath| {
        let workgroups = match path {
            AttentionPath::GpuLanes => workgroups,
            _ => &[0], // lanes of their own
        };
        let all = workgroups.iter().flat_map(move |lanes| {
            let of_element = move |element| path.passes(*lanes, head_width, element);
            Element::ALL.into_iter().filter_map(of_element)
        });
        all.flatten().map(|pass| pass.kernel)
    };
    let of_widths = |path| {
        head_widths
            .iter()
            .flat_map(move |width| of_width(*width, path))
    };
    AttentionPath::ALL.into_iter().flat_map(of_widths).collect()
}

// What every kernel starts with: where an invocation stands in the launch.
//
// A launch is a rectangle of workgroups, as a device counts no more than 65 535 along a side; its last row may hold some
// more than asked for.

const LANES = {{ workgroup }}u;

/// Where an invocation stands in the launch; for kernels without barriers, see GroupPlace.
struct Place {
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
}

/// Number of the workgroup, row by row.
fn group_of(place: Place) -> u32 {
    return place.workgroup.y * place.workgroups.x + place.workgroup.x;
}

/// Where a workgroup stands in the launch. All of it is the same for all lanes, and they are told their number apart from
/// it: a compiler that looks at structs as a whole, as those of browsers do, sees that all of them meet at a barrier.
struct GroupPlace {
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
}

/// Number of the workgroup, row by row.
fn number_of(place: GroupPlace) -> u32 {
    return place.workgroup.y * place.workgroups.x + place.workgroup.x;
}

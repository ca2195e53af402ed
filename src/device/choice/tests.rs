//! Selection on made-up lists of adapters.

use super::*;
use crate::device::adapters::AdapterLimits;

fn adapters(kinds: &[(&str, AdapterKind, Api)]) -> Vec<AdapterSummary> {
    let adapter = |(index, (name, kind, api)): (usize, &(&str, AdapterKind, Api))| AdapterSummary {
        index,
        name: (*name).to_owned(),
        kind: *kind,
        api: *api,
        driver: "driver".to_owned(),
        driver_info: "1.0".to_owned(),
        id: "10de:2684".to_owned(),
        pci_bus: String::new(),
        memory_bytes: None,
        has_f16: false,
        limits: AdapterLimits {
            buffer_bytes: 1 << 31,
            binding_bytes: 1 << 27,
            storage_buffers: 32,
            workgroup_bytes: 1 << 15,
            workgroup_invocations: 1024,
        },
    };
    kinds.iter().enumerate().map(adapter).collect()
}

/// Software, integrated, two discrete and a virtual adapter, in an order that is not the order of preference.
fn mixed() -> Vec<AdapterSummary> {
    adapters(&[
        (
            "llvmpipe (LLVM 15.0.6, 256 bits)",
            AdapterKind::Software,
            Api::Vulkan,
        ),
        (
            "Intel(R) UHD Graphics 770",
            AdapterKind::Integrated,
            Api::Vulkan,
        ),
        (
            "NVIDIA GeForce RTX 4090",
            AdapterKind::Discrete,
            Api::Vulkan,
        ),
        (
            "NVIDIA GeForce RTX 3060",
            AdapterKind::Discrete,
            Api::Vulkan,
        ),
        ("Virtio-GPU Venus", AdapterKind::Virtual, Api::Vulkan),
    ])
}

fn software() -> Vec<AdapterSummary> {
    mixed().into_iter().take(1).collect()
}

fn device_of(choice: &DeviceChoice) -> Option<WgpuDevice> {
    match &choice.selected {
        Selected::Wgpu { device, .. } => Some(device.clone()),
        Selected::Flex | Selected::NdArray => None,
    }
}

fn choose_device(
    list: &[AdapterSummary],
    choice: BackendChoice,
    device: &str,
) -> Result<DeviceChoice> {
    choose_among(list, choice, Some(device))
}

#[test]
fn auto_takes_the_first_discrete_adapter() {
    let choice = auto_among(&mixed());
    assert_eq!(device_of(&choice), Some(WgpuDevice::DiscreteGpu(0)));
    assert_eq!(
        choice.to_string(),
        "backend wgpu: NVIDIA GeForce RTX 4090, Vulkan, discrete GPU (auto takes the first discrete GPU)"
    );
}

#[test]
fn auto_prefers_integrated_to_virtual_to_unknown() {
    let mut list = adapters(&[
        ("unknown", AdapterKind::Other, Api::Vulkan),
        ("virtual", AdapterKind::Virtual, Api::Vulkan),
        ("integrated", AdapterKind::Integrated, Api::Vulkan),
    ]);
    assert_eq!(
        device_of(&auto_among(&list)),
        Some(WgpuDevice::IntegratedGpu(0))
    );
    list.pop();
    assert_eq!(
        device_of(&auto_among(&list)),
        Some(WgpuDevice::VirtualGpu(0))
    );
    list.pop();
    assert_eq!(
        device_of(&auto_among(&list)),
        Some(WgpuDevice::VirtualGpu(0))
    );
}

/// As AMD's Vulkan driver for Windows tells only the part that the firmware keeps for the GPU.
#[test]
fn auto_takes_an_integrated_gpu_where_it_has_its_memory() {
    let mut list = adapters(&[
        ("Radeon 780M", AdapterKind::Integrated, Api::Vulkan),
        ("Radeon 780M", AdapterKind::Integrated, Api::Dx12),
    ]);
    let api = |list: &[AdapterSummary]| match auto_among(list).selected {
        Selected::Wgpu { adapter, .. } => adapter.api,
        Selected::Flex | Selected::NdArray => panic!("the CPU"),
    };
    assert_eq!(api(&list), Api::Vulkan);
    list[0].memory_bytes = Some(512 << 20);
    list[1].memory_bytes = Some(13 << 30);
    assert_eq!(api(&list), Api::Dx12);
    // about as much as Vulkan has on others
    list[0].memory_bytes = Some(8 << 30);
    assert_eq!(api(&list), Api::Vulkan);
    list[0].memory_bytes = Some(512 << 20);
    list[0].has_f16 = true;
    assert_eq!(api(&list), Api::Vulkan, "f16 would be lost");
    list[1].has_f16 = true;
    assert_eq!(api(&list), Api::Dx12);
    // and another GPU is another one
    list[1].id = "10de:0000".to_owned();
    assert_eq!(api(&list), Api::Vulkan);
}

#[test]
fn auto_never_takes_software() {
    for list in [software(), Vec::new()] {
        let choice = auto_among(&list);
        assert_eq!(choice.selected, Selected::Flex);
        assert!(
            choice.reason.starts_with("auto takes the CPU"),
            "{}",
            choice.reason
        );
    }
    let error = choose_device(&mixed(), BackendChoice::Auto, "llvm").unwrap_err();
    assert!(error.to_string().contains("auto never takes"), "{error}");
}

#[test]
fn wgpu_takes_software_where_there_is_nothing_else_and_says_so() {
    let choice = choose_among(&software(), BackendChoice::Wgpu, None).unwrap();
    assert_eq!(device_of(&choice), Some(WgpuDevice::Cpu));
    assert!(choice.reason.contains("no GPU"), "{}", choice.reason);
    assert_eq!(
        choice.selected.to_string(),
        "backend wgpu: llvmpipe (LLVM 15.0.6, 256 bits), Vulkan, CPU adapter (software)"
    );
    let choice = choose_among(&mixed(), BackendChoice::Wgpu, None).unwrap();
    assert_eq!(device_of(&choice), Some(WgpuDevice::DiscreteGpu(0)));
}

#[test]
fn wgpu_without_an_adapter_says_what_to_install() {
    for device in [None, Some("0"), Some("nvidia")] {
        let error = choose_among(&[], BackendChoice::Wgpu, device).unwrap_err();
        assert!(matches!(error, Error::Device(_)), "{error}");
        assert!(
            error.to_string().contains("wgpu finds no adapter"),
            "{error}"
        );
    }
}

#[test]
fn a_device_is_a_number_or_a_part_of_a_name() {
    let expected = [
        ("0", WgpuDevice::Cpu),
        ("1", WgpuDevice::IntegratedGpu(0)),
        ("3", WgpuDevice::DiscreteGpu(1)),
        ("4090", WgpuDevice::DiscreteGpu(0)),
        ("rtx 3060", WgpuDevice::DiscreteGpu(1)),
        ("LLVMPIPE", WgpuDevice::Cpu),
        ("venus", WgpuDevice::VirtualGpu(0)),
    ];
    for (wanted, device) in expected {
        let choice = choose_device(&mixed(), BackendChoice::Wgpu, wanted).unwrap();
        assert_eq!(device_of(&choice), Some(device), "{wanted}");
    }
    let choice = choose_device(&mixed(), BackendChoice::Auto, "4").unwrap();
    assert_eq!(device_of(&choice), Some(WgpuDevice::VirtualGpu(0)));
}

#[test]
fn an_unknown_device_lists_the_known_ones() {
    for wanted in ["5", "radeon", ""] {
        let error = choose_device(&mixed(), BackendChoice::Wgpu, wanted)
            .unwrap_err()
            .to_string();
        assert!(error.contains("0: llvmpipe"), "{error}");
        assert!(error.contains("4: Virtio-GPU Venus"), "{error}");
    }
}

#[test]
fn an_ambiguous_name_lists_what_it_fits() {
    let error = choose_device(&mixed(), BackendChoice::Wgpu, "GeForce")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("2: NVIDIA") && error.contains("3: NVIDIA"),
        "{error}"
    );
    assert!(!error.contains("llvmpipe"), "{error}");
    let twins = adapters(&[
        ("NVIDIA H100", AdapterKind::Discrete, Api::Vulkan),
        ("NVIDIA H100", AdapterKind::Discrete, Api::Vulkan),
    ]);
    choose_device(&twins, BackendChoice::Wgpu, "h100").unwrap_err();
}

#[test]
fn one_gpu_behind_two_apis_is_one_match_and_is_counted_per_api() {
    let list = adapters(&[
        ("AMD Radeon", AdapterKind::Discrete, Api::Vulkan),
        ("AMD Radeon", AdapterKind::Discrete, Api::Dx12),
        ("WARP", AdapterKind::Software, Api::Dx12),
    ]);
    let by_name = choose_device(&list, BackendChoice::Wgpu, "radeon").unwrap();
    let by_number = choose_device(&list, BackendChoice::Wgpu, "1").unwrap();
    assert_eq!(device_of(&by_name), Some(WgpuDevice::DiscreteGpu(0)));
    assert_eq!(device_of(&by_number), Some(WgpuDevice::DiscreteGpu(0)));
    assert!(by_name.selected.to_string().contains("Vulkan"));
    assert!(by_number.selected.to_string().contains("Direct3D 12"));
}

#[test]
fn opengl_is_taken_by_name_alone() {
    let list = adapters(&[
        ("NVIDIA GeForce RTX 4090", AdapterKind::Discrete, Api::Gl),
        ("llvmpipe", AdapterKind::Software, Api::Gl),
    ]);
    let choice = auto_among(&list);
    assert_eq!(choice.selected, Selected::Flex);
    assert!(choice.reason.contains("`device` 0"), "{}", choice.reason);
    let error = choose_among(&list, BackendChoice::Wgpu, None).unwrap_err();
    assert!(error.to_string().contains("`device` 0"), "{error}");
    for choice in [BackendChoice::Auto, BackendChoice::Wgpu] {
        let choice = choose_device(&list, choice, "4090").unwrap();
        assert_eq!(device_of(&choice), Some(WgpuDevice::DiscreteGpu(0)));
    }
}

#[test]
fn two_drivers_of_one_gpu_are_two_adapters() {
    let mut list = adapters(&[
        ("AMD Radeon RX 7900", AdapterKind::Discrete, Api::Vulkan),
        ("AMD Radeon RX 7900", AdapterKind::Discrete, Api::Vulkan),
    ]);
    assert!(list[0].is_same_adapter(&list[1]));
    list[1].driver = "AMD open-source driver".to_owned();
    assert!(!list[0].is_same_adapter(&list[1]));
    let error = choose_device(&list, BackendChoice::Wgpu, "radeon")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("driver driver 1.0") && error.contains("AMD open-source driver 1.0"),
        "{error}"
    );
}

#[test]
fn what_cubecl_cannot_name_is_an_error() {
    let list = adapters(&[
        ("discrete", AdapterKind::Discrete, Api::Vulkan),
        ("integrated", AdapterKind::Integrated, Api::Vulkan),
        ("virtual", AdapterKind::Virtual, Api::Vulkan),
        ("unknown", AdapterKind::Other, Api::Vulkan),
        ("unknown too", AdapterKind::Other, Api::Vulkan),
        ("software", AdapterKind::Software, Api::Vulkan),
        ("software too", AdapterKind::Software, Api::Vulkan),
    ]);
    assert!(wgpu_device(&list, 3).is_err());
    // The second one of unknown kind: cubecl's number 1, beyond the only virtual adapter.
    assert_eq!(wgpu_device(&list, 4).unwrap(), WgpuDevice::VirtualGpu(1));
    assert_eq!(wgpu_device(&list, 5).unwrap(), WgpuDevice::Cpu);
    assert!(wgpu_device(&list, 6).is_err());
    assert!(wgpu_device(&list, 7).is_err());
}

#[test]
fn a_cpu_backend_takes_no_device() {
    for (choice, selected) in [
        (BackendChoice::Flex, Selected::Flex),
        (BackendChoice::NdArray, Selected::NdArray),
    ] {
        assert_eq!(choose_among(&[], choice, None).unwrap().selected, selected);
        choose_device(&mixed(), choice, "0").unwrap_err();
        assert!(selected.to_string().contains("threads"), "{selected}");
    }
}

#[test]
fn names_of_backends_read_back() {
    for choice in BackendChoice::ALL {
        assert_eq!(choice.to_string().parse::<BackendChoice>().unwrap(), choice);
        let json = serde_json::to_string(&choice).unwrap();
        assert_eq!(json, format!("\"{choice}\""));
    }
    "cuda".parse::<BackendChoice>().unwrap_err();
}

#[test]
fn listing_does_not_panic() {
    for adapter in list_adapters().unwrap() {
        assert!(adapter.to_string().contains("largest tensor"));
    }
    assert!(!auto_choice().unwrap().reason.is_empty());
}

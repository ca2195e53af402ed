/* A Vulkan layer that makes lavapipe, Mesa's software device, answer like another GPU.
 *
 * A program chooses its kernels by what the device says of itself: kind, subgroup sizes, workgroup memory, buffers of a
 * kernel. Behind this layer it makes the other GPU's choices, and its kernels still run on lavapipe, so that what they
 * compute, and what is refused, is real. Speed is not, and neither are subgroup operations, which are not emulated.
 *
 * The answers come from variables of the environment, set by `with_shape`; what is not set stays lavapipe's:
 *
 *   SHAPE_SUBGROUP_MIN, SHAPE_SUBGROUP_MAX   lanes of a subgroup
 *   SHAPE_SHARED_BYTES                       workgroup memory of a kernel
 *   SHAPE_INVOCATIONS                        lanes of a workgroup, at most
 *   SHAPE_STORAGE_BUFFERS                    storage buffers of a kernel, at most
 *   SHAPE_TYPE                               1 integrated, 2 discrete (VkPhysicalDeviceType)
 *   SHAPE_VENDOR, SHAPE_NAME                 PCI vendor and name
 *   SHAPE_HALF                               0: no f16 in shaders
 *
 * How a layer works: the loader asks vkNegotiateLoaderLayerInterfaceVersion for the layer's vkGetInstanceProcAddr, and
 * asks that for every function. We give our own for the few that we answer, and the next layer's for all others. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

#define EXPORT __attribute__((visibility("default")))

/* The same functions of what is below us; set when the program makes its instance. One instance at a time is enough here:
 * all have the same driver below. */
static PFN_vkGetInstanceProcAddr next_get_instance_proc_addr;
static PFN_vkGetPhysicalDeviceProperties next_get_properties;
static PFN_vkGetPhysicalDeviceProperties2 next_get_properties2;
static PFN_vkGetPhysicalDeviceFeatures2 next_get_features2;

/* Writes the number of this variable, if it is set. */
static void replace(uint32_t *answer, const char *variable) {
    const char *text = getenv(variable);
    if (text && *text) *answer = (uint32_t)strtoul(text, NULL, 0);
}

static void replace_properties(VkPhysicalDeviceProperties *properties) {
    VkPhysicalDeviceLimits *limits = &properties->limits;
    replace(&limits->maxComputeSharedMemorySize, "SHAPE_SHARED_BYTES");
    replace(&limits->maxPerStageDescriptorStorageBuffers, "SHAPE_STORAGE_BUFFERS");
    replace(&limits->maxComputeWorkGroupInvocations, "SHAPE_INVOCATIONS");
    for (int side = 0; side < 3; side++) {
        if (limits->maxComputeWorkGroupSize[side] > limits->maxComputeWorkGroupInvocations)
            limits->maxComputeWorkGroupSize[side] = limits->maxComputeWorkGroupInvocations;
    }
    replace(&properties->vendorID, "SHAPE_VENDOR");
    uint32_t type = properties->deviceType;
    replace(&type, "SHAPE_TYPE");
    properties->deviceType = (VkPhysicalDeviceType)type;
    const char *name = getenv("SHAPE_NAME");
    if (name && *name) snprintf(properties->deviceName, sizeof properties->deviceName, "%s", name);
}

/* Subgroup sizes stand in structures that the program chains to its question: of an extension, or of Vulkan 1.1 and 1.3. */
static void replace_subgroups(void *chain) {
    for (VkBaseOutStructure *part = chain; part; part = part->pNext) {
        switch (part->sType) {
        case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES: {
            VkPhysicalDeviceSubgroupSizeControlProperties *sizes = (void *)part;
            replace(&sizes->minSubgroupSize, "SHAPE_SUBGROUP_MIN");
            replace(&sizes->maxSubgroupSize, "SHAPE_SUBGROUP_MAX");
            break;
        }
        case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_PROPERTIES: {
            VkPhysicalDeviceVulkan13Properties *sizes = (void *)part;
            replace(&sizes->minSubgroupSize, "SHAPE_SUBGROUP_MIN");
            replace(&sizes->maxSubgroupSize, "SHAPE_SUBGROUP_MAX");
            break;
        }
        case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES:
            replace(&((VkPhysicalDeviceSubgroupProperties *)part)->subgroupSize, "SHAPE_SUBGROUP_MAX");
            break;
        case VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES:
            replace(&((VkPhysicalDeviceVulkan11Properties *)part)->subgroupSize, "SHAPE_SUBGROUP_MAX");
            break;
        default:
            break;
        }
    }
}

static VKAPI_ATTR void VKAPI_CALL get_properties(VkPhysicalDevice device, VkPhysicalDeviceProperties *properties) {
    next_get_properties(device, properties);
    replace_properties(properties);
}

static VKAPI_ATTR void VKAPI_CALL get_properties2(VkPhysicalDevice device, VkPhysicalDeviceProperties2 *properties) {
    next_get_properties2(device, properties);
    replace_properties(&properties->properties);
    replace_subgroups(properties->pNext);
}

/* Whether shaders compute in f16: of an extension, or of Vulkan 1.2. */
static VKAPI_ATTR void VKAPI_CALL get_features2(VkPhysicalDevice device, VkPhysicalDeviceFeatures2 *features) {
    next_get_features2(device, features);
    for (VkBaseOutStructure *part = features->pNext; part; part = part->pNext) {
        if (part->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES)
            replace(&((VkPhysicalDeviceShaderFloat16Int8Features *)part)->shaderFloat16, "SHAPE_HALF");
        if (part->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES)
            replace(&((VkPhysicalDeviceVulkan12Features *)part)->shaderFloat16, "SHAPE_HALF");
    }
}

/* Takes our link out of the chain that the loader made, and calls what is below with the rest of it. */
static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *allocator,
                                                      VkInstance *instance) {
    VkLayerInstanceCreateInfo *link = (void *)info->pNext;
    while (link && !(link->sType == VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO && link->function == VK_LAYER_LINK_INFO))
        link = (void *)link->pNext;
    if (!link) return VK_ERROR_INITIALIZATION_FAILED;
    next_get_instance_proc_addr = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;

    PFN_vkCreateInstance create = (PFN_vkCreateInstance)next_get_instance_proc_addr(NULL, "vkCreateInstance");
    VkResult result = create(info, allocator, instance);
    if (result != VK_SUCCESS) return result;
#define NEXT(type, name) (type) next_get_instance_proc_addr(*instance, name)
    next_get_properties = NEXT(PFN_vkGetPhysicalDeviceProperties, "vkGetPhysicalDeviceProperties");
    next_get_properties2 = NEXT(PFN_vkGetPhysicalDeviceProperties2, "vkGetPhysicalDeviceProperties2");
    if (!next_get_properties2) next_get_properties2 = NEXT(PFN_vkGetPhysicalDeviceProperties2, "vkGetPhysicalDeviceProperties2KHR");
    next_get_features2 = NEXT(PFN_vkGetPhysicalDeviceFeatures2, "vkGetPhysicalDeviceFeatures2");
    if (!next_get_features2) next_get_features2 = NEXT(PFN_vkGetPhysicalDeviceFeatures2, "vkGetPhysicalDeviceFeatures2KHR");
    return VK_SUCCESS;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_instance_proc_addr(VkInstance instance, const char *name) {
    static const struct {
        const char *name;
        PFN_vkVoidFunction function;
    } ours[] = {
        {"vkCreateInstance", (PFN_vkVoidFunction)create_instance},
        {"vkGetInstanceProcAddr", (PFN_vkVoidFunction)get_instance_proc_addr},
        {"vkGetPhysicalDeviceProperties", (PFN_vkVoidFunction)get_properties},
        {"vkGetPhysicalDeviceProperties2", (PFN_vkVoidFunction)get_properties2},
        {"vkGetPhysicalDeviceProperties2KHR", (PFN_vkVoidFunction)get_properties2},
        {"vkGetPhysicalDeviceFeatures2", (PFN_vkVoidFunction)get_features2},
        {"vkGetPhysicalDeviceFeatures2KHR", (PFN_vkVoidFunction)get_features2},
    };
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (!strcmp(name, ours[i].name)) return ours[i].function;
    return next_get_instance_proc_addr ? next_get_instance_proc_addr(instance, name) : NULL;
}

/* Devices are not looked at: their functions are the driver's own. */
EXPORT VKAPI_ATTR VkResult VKAPI_CALL vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *interface) {
    if (interface->loaderLayerInterfaceVersion > 2) interface->loaderLayerInterfaceVersion = 2;
    interface->pfnGetInstanceProcAddr = get_instance_proc_addr;
    interface->pfnGetDeviceProcAddr = NULL;
    interface->pfnGetPhysicalDeviceProcAddr = NULL;
    return VK_SUCCESS;
}

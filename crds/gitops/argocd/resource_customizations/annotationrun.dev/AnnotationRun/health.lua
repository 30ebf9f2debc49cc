-- Health of an AnnotationRun, by its conditions: Ready, Reconciling and Stalled mean what kstatus says.
local health = {status = "Progressing", message = "The operator has not seen this generation of the run yet"}
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

if holds("Stalled") then
  health.status = "Degraded"
elseif holds("Suspended") then
  health.status = "Suspended"
elseif holds("Ready") then
  health.status = "Healthy"
end
if conditions.Ready ~= nil then
  health.message = conditions.Ready.reason .. ": " .. (conditions.Ready.message or "")
end
return health

local actions = {}
local status = obj.status or {}

local ended, failed = false, false
for _, condition in ipairs(status.conditions or {}) do
  if condition.status == "True" and (condition.type == "Complete" or condition.type == "Failed") then
    ended = true
    failed = failed or condition.type == "Failed"
  end
end
local given_up = status.episodes ~= nil and (status.episodes.failed or 0) > 0

if obj.spec.suspend then
  actions["resume"] = {["iconClass"] = "fa fa-fw fa-play"}
elseif not ended then
  actions["suspend"] = {["iconClass"] = "fa fa-fw fa-pause"}
end
if failed or given_up then
  actions["retry"] = {["iconClass"] = "fa fa-fw fa-redo"}
end
return actions

